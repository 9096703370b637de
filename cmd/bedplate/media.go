package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func newMediaCommand(a *app) *cobra.Command {
	kind := mustKind("Machine")
	out, valid, revoke := "", 24*time.Hour, false
	cmd := &cobra.Command{
		Use:   "media NAME",
		Short: "Make a boot medium for a machine in a network without DHCP",
		Long: `Make a boot medium for a machine in a network without DHCP: an image with the
agent's system, the addresses in the machine's spec.interfaces, and what this one
machine enrols with. It boots from a CD drive, from a BMC's virtual one, and
from a USB stick that it is written to: --out takes the stick's device too.

Whoever has the image can enrol as that machine until it expires or is revoked:
keep it like a password.`,
		Example: `  bedplate machine media r1u7 --out r1u7.iso
  bedplate machine media r1u7 --out /dev/sdx --valid-for 72h
  bedplate machine media r1u7 --revoke`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			if (out == "") != revoke {
				return usageError{errors.New("say where the image goes with --out, or --revoke")}
			}
			return a.with(cmd.Context(), func(c *client) error {
				if revoke {
					return a.revokeMedia(cmd.Context(), c, words[0])
				}
				return a.makeMedium(cmd.Context(), c, words[0], out, valid)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`file` to write, a USB stick's device, or - for the standard output")
	cmd.Flags().DurationVar(&valid, "valid-for", valid, "how long the machine can boot from it, a minute to 720h")
	cmd.Flags().BoolVar(&revoke, "revoke", false, "make every medium of the machine useless, the one that its BMC has inserted too")
	return cmd
}

func (a *app) revokeMedia(ctx context.Context, c *client, name string) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	_, err := pb.NewMachineServiceClient(c.conn).RevokeMachineMedia(ctx, &pb.RevokeMachineMediaRequest{Name: name})
	if err != nil {
		return c.nearest(ctx, mustKind("Machine"), name, err)
	}
	fprintf(a.stdout, "machine/%s: no medium is good any more\n", name)
	return nil
}

func (a *app) makeMedium(ctx context.Context, c *client, name, out string, valid time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewMachineServiceClient(c.conn).MakeMachineMedium(ctx, &pb.MakeMachineMediumRequest{Name: name, Validity: durationpb.New(valid)})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return c.nearest(ctx, mustKind("Machine"), name, err)
	}
	medium := first.GetMedium()
	if medium == nil {
		return hint(errors.New("the server sent no description of the medium"), "is it of the same version as this program? (`bedplate version --with-server`)")
	}
	if out == "-" {
		return a.receiveMedium(stream, a.stdout, medium.GetSizeBytes())
	}
	if err := a.writeMedium(stream, out, medium.GetSizeBytes()); err != nil {
		return err
	}
	fprintf(a.stdout, "%s: %s, boots machine/%s until %s\n", out, table.Bytes(medium.GetSizeBytes()), name, medium.GetExpireTime().AsTime().Local().Format(time.DateTime))
	return nil
}

// writeMedium writes the image to a device, or to a file that appears when it
// is complete and that only its owner can read.
func (a *app) writeMedium(stream grpc.ServerStreamingClient[pb.MakeMachineMediumResponse], out string, size int64) (err error) {
	if info, err := os.Stat(out); err == nil && info.Mode()&os.ModeDevice != 0 {
		return a.writeDevice(stream, out, size)
	}
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := a.receiveMedium(stream, f, size); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	return nil
}

// writeDevice writes the image to a stick. With O_EXCL Linux refuses a device
// that is in use, such as a mounted one (open(2)).
func (a *app) writeDevice(stream grpc.ServerStreamingClient[pb.MakeMachineMediumResponse], out string, size int64) error {
	f, err := os.OpenFile(out, os.O_WRONLY|syscall.O_EXCL, 0)
	if errors.Is(err, syscall.EBUSY) {
		return hint(fmt.Errorf("%s is in use", out), "unmount it first, and make sure that it is the stick")
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	if err := a.receiveMedium(stream, f, size); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	return nil
}

// receiveMedium writes what the server sends, and makes sure that it is all.
func (a *app) receiveMedium(stream grpc.ServerStreamingClient[pb.MakeMachineMediumResponse], w io.Writer, size int64) (err error) {
	screen := a.screen(a.stderr)
	defer func() { err = errors.Join(err, screen.Close()) }()
	var got int64
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		n, err := w.Write(m.GetData())
		got += int64(n)
		if err != nil {
			return fmt.Errorf("writing the boot medium: %w", err)
		}
		screen.Set("medium", table.Bar{Label: "medium", Done: got, Total: size, Unit: "bytes"})
	}
	if got != size {
		return hint(fmt.Errorf("the server sent %d of %d bytes", got, size), "make the medium again")
	}
	return nil
}
