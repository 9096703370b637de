package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// newMachineBMCCommands are what `machine` does by BMCs.
func newMachineBMCCommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newPowerCommand(a), newBootDeviceCommand(a), newVirtualMediaCommand(a), newSensorsCommand(a), newEventLogCommand(a), newBIOSCommand(a),
		newFirmwareCommand(a), newSecureBootCommand(a), newMachineBMCCommand(a), newConsoleCommand(a),
	}
}

func newBootDeviceCommand(a *app) *cobra.Command {
	devices := []string{"none", "network", "disk", "cdrom", "usb", "http", "bios-setup"}
	op := &pb.BootDeviceOperation{}
	cmd := newJobCommandOn(a, "boot-device NAME DEVICE", "Set what a machine boots next, or always", "boot", cobra.ExactArgs(2), func(words []string) ([]*pb.Operation, error) {
		if !slices.Contains(devices, words[1]) {
			return nil, usageError{fmt.Errorf("%q is no boot device: it is one of %s", words[1], strings.Join(devices, ", "))}
		}
		if _, err := bmc.ParseBootMode(op.GetMode()); err != nil {
			return nil, usageError{err}
		}
		op.Device = words[1]
		return []*pb.Operation{{Operation: &pb.Operation_BootDevice{BootDevice: op}}}, nil
	})
	cmd.Long = "Set what a machine boots next, or with --persistent always: " + strings.Join(devices, ", ") + ".\nnone ends an override."
	cmd.Example = "  bedplate machine boot-device web-1 network && bedplate machine power web-1 cycle"
	names := a.completeOne(mustKind("Machine"))
	cmd.ValidArgsFunction = func(cmd *cobra.Command, words []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(words) == 1 {
			return devices, cobra.ShellCompDirectiveNoFileComp
		}
		return names(cmd, words, begun)
	}
	cmd.Flags().BoolVar(&op.Persistent, "persistent", false, "for every boot, not only for the next")
	cmd.Flags().StringVar(&op.Mode, "mode", "", "bios or uefi (default: as it is)")
	cmd.Flags().StringVar(&op.Uri, "uri", "", "http only: the `URL` that UEFI HTTP Boot fetches")
	completeFlag(cmd, "mode", "bios", "uefi")
	return cmd
}

// newVirtualMediaCommand adds to `machine media` what BMCs do with media.
func newVirtualMediaCommand(a *app) *cobra.Command {
	noun := newMediaCommand(a)
	var in, out string
	insert := newJobCommandOn(a, "insert NAME [URL]", "Insert a medium into a machine, by its BMC", "media", cobra.RangeArgs(1, 2), func(words []string) ([]*pb.Operation, error) {
		op := &pb.MediaOperation{Kind: in}
		if len(words) == 2 {
			op.Url = words[1]
		}
		return []*pb.Operation{{Operation: &pb.Operation_InsertMedia{InsertMedia: op}}}, checkMediaKind(in)
	})
	insert.Long = "Insert what URL has as virtual media, which the machine sees as a CD or a USB stick.\nWithout a URL it is the agent's system, made for this machine."
	eject := newJobCommandOn(a, "eject NAME", "Eject a machine's virtual media", "media", cobra.ExactArgs(1), func([]string) ([]*pb.Operation, error) {
		return []*pb.Operation{{Operation: &pb.Operation_EjectMedia{EjectMedia: &pb.MediaOperation{Kind: out}}}}, checkMediaKind(out)
	})
	for cmd, kind := range map[*cobra.Command]*string{insert: &in, eject: &out} {
		cmd.Flags().StringVar(kind, "kind", "", "cd or usb (default cd)")
		completeFlag(cmd, "kind", "cd", "usb")
	}
	noun.AddCommand(insert, eject)
	return noun
}

func checkMediaKind(kind string) error {
	if kind != "" && kind != "cd" && kind != "usb" {
		return usageError{fmt.Errorf("--kind %s: it is cd or usb", kind)}
	}
	return nil
}

// newMachineBMCCommand is about the BMC itself.
func newMachineBMCCommand(a *app) *cobra.Command {
	noun := &cobra.Command{Use: "bmc", Short: "The management controllers of machines themselves"}
	simple := func(use, short, word string, op *pb.Operation) *cobra.Command {
		return newJobCommandOn(a, use+" NAME", short, word, cobra.ExactArgs(1), func([]string) ([]*pb.Operation, error) { return []*pb.Operation{op}, nil })
	}
	rotate := simple("rotate-password", "Give a BMC a password that only the server knows", "password", &pb.Operation{Operation: &pb.Operation_Password{Password: &pb.PasswordOperation{}}})
	rotate.Long = `Give the account that the server logs in with a generated password. It is kept
encrypted before the BMC is told, and shown to nobody; the old one is kept until a
login with the new one has succeeded.`
	noun.AddCommand(newBMCStatusCommand(a), newBMCUsersCommand(a), newTrustCommand(a), rotate,
		simple("inventory", "Read a machine's hardware out of band", "inventory", &pb.Operation{Operation: &pb.Operation_Inventory{Inventory: &pb.InventoryOperation{}}}),
		simple("reset", "Restart a BMC, not its machine", "bmc-reset", &pb.Operation{Operation: &pb.Operation_ResetBmc{ResetBmc: &pb.ResetBMCOperation{}}}))
	return noun
}

func newBMCStatusCommand(a *app) *cobra.Command {
	var out output
	var selector string
	var retry bool
	cmd := &cobra.Command{
		Use: "status NAME... | -l SELECTOR", Short: "Ask BMCs how they and their machines are",
		Args: args(cobra.ArbitraryArgs), ValidArgsFunction: a.completeNames(mustKind("Machine")),
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error {
				names, err := c.machinesOf(cmd.Context(), words, selector)
				if err != nil {
					return err
				}
				return a.showMachineBMCs(cmd.Context(), c, out, names, retry)
			})
		},
	}
	out.addFlags(cmd)
	addSelector(cmd, &selector)
	cmd.Flags().BoolVar(&retry, "retry", false, "ask also those that the server leaves alone for a while")
	return cmd
}

func newBMCUsersCommand(a *app) *cobra.Command {
	return newReadCommand(a, "users NAME", "Show the accounts of a BMC",
		func(ctx context.Context, m pb.MachineServiceClient, name string) ([]*pb.BMCUser, error) {
			r, err := m.ListMachineBMCUsers(ctx, &pb.ListMachineBMCUsersRequest{Name: name})
			return r.GetUsers(), err
		}, true, func(all []*pb.BMCUser) *table.Table {
			t := &table.Table{Header: []string{"ID", "NAME", "ROLE", "ENABLED", "LOCKED"}}
			for _, u := range all {
				t.Add(clean(u.GetId(), u.GetName(), u.GetRole(), yesNo(u.GetEnabled()), yesNo(u.GetLocked()))...)
			}
			return t
		})
}

func newTrustCommand(a *app) *cobra.Command {
	kind := mustKind("Machine")
	r := &pb.TrustMachineBMCRequest{}
	cmd := &cobra.Command{
		Use: "trust NAME", Short: "Trust the certificate that a BMC shows now",
		Long: `Trust the certificate that a BMC shows now, in place of the one that was pinned when
the server first spoke to it: the BMC was replaced, reset or given another one. If
it wasn't, somebody may be in between.`,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeOne(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				r.Name = words[0]
				got, err := pb.NewMachineServiceClient(c.conn).TrustMachineBMC(ctx, r)
				if err != nil {
					return c.nearest(cmd.Context(), kind, words[0], err)
				}
				if got.GetError() != "" {
					return errors.New("its BMC can't be reached: " + table.Clean(got.GetError()))
				}
				fprintf(a.stdout, "machine/%s: its BMC is trusted with certificate %s\n", words[0], orElse(got.GetStatus().GetCertificateDigest(), "(none: it is checked otherwise)"))
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&r.CertificateDigest, "digest", "", "trust only this `certificate`: sha256: and 64 hexadecimal digits")
	cmd.Flags().BoolVar(&r.ResetPassword, "password", false, "the BMC's account was set back by hand: log in with the Secret's password again")
	return cmd
}

// newBMCCommand is about BMCs that no machine has yet.
func newBMCCommand(a *app) *cobra.Command {
	noun := &cobra.Command{Use: "bmc", Short: "Find management controllers on the network"}
	r := &pb.ScanBMCsRequest{}
	var out output
	scan := &cobra.Command{
		Use: "scan RANGE...", Short: "Look for BMCs in address ranges",
		Long: `Look for BMCs in address ranges, such as 10.20.0.0/24, 10.20.0.10-10.20.0.20 or
single addresses, by Redfish and IPMI. Nobody is logged in to, and no password is
sent. The server asks, so it must reach the addresses.

With --apply each BMC that no machine has becomes a Machine known by its address. The
server then logs in, reads the hardware out of band, and takes the machine on, unless
there are rules: then they decide on it.`,
		Example: "  bedplate bmc scan 10.20.0.0/24\n  bedplate bmc scan 10.20.0.0/24 --apply --username root --password-secret bmc --rack r1",
		Args:    args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := out.check(); err != nil {
				return err
			}
			r.Ranges = words
			return a.with(cmd.Context(), func(c *client) error { return a.scan(cmd.Context(), c, out, r) })
		},
	}
	out.addFlags(scan)
	flags := scan.Flags()
	flags.BoolVar(&r.Apply, "apply", false, "make a Machine of each BMC that none has")
	flags.StringVar(&r.Username, "username", "", "`user` of the BMCs, with --apply")
	flags.StringVar(&r.PasswordSecret, "password-secret", "", "`Secret` with their password under the key password, or passwords by MAC address, serial number or name")
	flags.StringVar(&r.Pool, "pool", "", "`Pool` of the machines")
	flags.StringVar(&r.Rack, "rack", "", "`rack` of the machines")
	flags.Uint32Var(&r.Rate, "rate", 0, "`addresses` asked a second (default 200)")
	mustComplete(scan, "password-secret", a.completeNames(mustKind("Secret")))
	mustComplete(scan, "pool", a.completeNames(mustKind("Pool")))
	noun.AddCommand(scan)
	return noun
}

// scan shows progress while it goes on, and what was found at the end.
func (a *app) scan(ctx context.Context, c *client, out output, r *pb.ScanBMCsRequest) error {
	stream, err := pb.NewMachineServiceClient(c.conn).ScanBMCs(ctx, r)
	if err != nil {
		return err
	}
	found, err := a.receiveScan(stream)
	if err != nil {
		return err
	}
	if len(found) == 0 && (out.format == formatTable || out.format == formatWide) {
		fprintf(a.stderr, "no BMC answered\n")
		return nil
	}
	return printMessages(a, out, true, found, func() *table.Table {
		t := &table.Table{Header: []string{"ADDRESS", "PROTOCOLS", "VENDOR", "PRODUCT", "MACHINE"}}
		if out.format == formatWide {
			t.Header = append(t.Header, "UUID", "CERTIFICATE")
		}
		for _, f := range found {
			m := f.GetMachine()
			switch {
			case f.GetCreated():
				m += " (new)"
			case f.GetError() != "":
				m = a.style(a.stdout).Bad(table.Clean(f.GetError()))
			}
			cells := append(clean(f.GetAddress(), f.GetProtocols(), f.GetVendor(), f.GetProduct()), m)
			if out.format == formatWide {
				cells = append(cells, clean(f.GetUuid(), f.GetCertificateDigest())...)
			}
			t.Add(cells...)
		}
		return t
	})
}

func (a *app) receiveScan(stream grpc.ServerStreamingClient[pb.ScanBMCsResponse]) (found []*pb.FoundBMC, err error) {
	screen := a.screen(a.stderr)
	defer func() { err = errors.Join(err, screen.Close()) }()
	const bar = "scan"
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			screen.Remove(bar)
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if f := m.GetFound(); f != nil {
			found = append(found, f)
		}
		if p := m.GetProgress(); p != nil {
			screen.Set(bar, table.Bar{Label: "scanning", Done: int64(p.GetDone()), Total: int64(p.GetTotal()), Unit: "addresses"})
		}
	}
}
