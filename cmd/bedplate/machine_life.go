package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// newLifeCommands are what a person says of a machine's life.
func newLifeCommands(a *app) []*cobra.Command {
	return []*cobra.Command{newRetryMachineCommand(a), newMaintenanceCommand(a), newRescueCommand(a), newRetireCommand(a)}
}

func newRetryMachineCommand(a *app) *cobra.Command {
	kind := mustKind("Machine")
	return &cobra.Command{
		Use:   "retry NAME...",
		Short: "Take up again what a failed machine's life stopped at",
		Long: `Take up again what a failed machine's life stopped at: attempts are counted anew,
hooks that said no are asked again, hardware that was not as expected is read and
tested again.`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNames(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				return a.forEach(words, func(name string) error {
					ctx, cancel := c.bounded(cmd.Context())
					defer cancel()
					_, err := pb.NewMachineServiceClient(c.conn).RetryMachine(ctx, &pb.RetryMachineRequest{Name: name})
					if err != nil {
						return c.nearest(cmd.Context(), kind, name, err)
					}
					fprintf(a.stdout, "machine/%s is tried again\n", name)
					return nil
				})
			})
		},
	}
}

// forEach does something for every name, and returns all that went wrong.
func (a *app) forEach(names []string, do func(name string) error) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, do(name))
	}
	return errors.Join(errs...)
}

// changeSpec changes a machine's spec, again where somebody else was faster.
// It reports whether there was anything to change.
func (a *app) changeSpec(ctx context.Context, c *client, name string, change func(*pb.MachineSpec) bool) (bool, error) {
	kind := mustKind("Machine")
	for attempt := 1; ; attempt++ {
		obj, err := c.get(ctx, kind, name)
		if err != nil {
			return false, err
		}
		if !change(obj.(*pb.Machine).Spec) {
			return false, nil
		}
		_, err = c.update(ctx, kind, obj, false, false)
		if codeOf(err) == codes.Aborted && attempt < acceptAttempts {
			continue
		}
		return err == nil, err
	}
}

// specCommand is a command that changes one thing about machines.
func (a *app) specCommand(cmd *cobra.Command, change func(*pb.MachineSpec) bool, done, unchanged string) *cobra.Command {
	cmd.Args = args(cobra.MinimumNArgs(1))
	cmd.ValidArgsFunction = a.completeNames(mustKind("Machine"))
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		return a.with(cmd.Context(), func(c *client) error {
			return a.forEach(words, func(name string) error {
				changed, err := a.changeSpec(cmd.Context(), c, name, change)
				switch {
				case err != nil:
					return err
				case !changed:
					fprintf(a.stdout, "machine/%s unchanged: %s\n", name, unchanged)
				default:
					fprintf(a.stdout, "machine/%s %s\n", name, done)
				}
				return nil
			})
		})
	}
	return cmd
}

func newMaintenanceCommand(a *app) *cobra.Command {
	noun := &cobra.Command{Use: "maintenance", Short: "Set machines aside, and bring them back"}
	set := func(on bool) func(*pb.MachineSpec) bool {
		return func(s *pb.MachineSpec) bool {
			changed := s.Maintenance != on
			s.Maintenance = on
			return changed
		}
	}
	noun.AddCommand(
		a.specCommand(&cobra.Command{Use: "on NAME...", Short: "Set machines aside: they get no instance and no workflow"}, set(true),
			"is being set aside: `bedplate machine explain` says when it is", "it is set aside already"),
		a.specCommand(&cobra.Command{Use: "off NAME...", Short: "Bring machines back that were set aside"}, set(false),
			"is brought back", "it is not set aside"))
	return noun
}

func newRescueCommand(a *app) *cobra.Command {
	noun := &cobra.Command{
		Use:   "rescue",
		Short: "Look at machines from the agent's system, over SSH",
		Long: `Look at machines from the agent's system, over SSH: the machine is booted into
memory, its disks are left as they are. When the rescue is ended it boots what it
had.`,
	}
	var keys []string
	var timeout string
	start := &cobra.Command{
		Use:     "start NAME... --key FILE",
		Short:   "Boot machines into the agent with an SSH server",
		Example: "  bedplate machine rescue start web-1 --key ~/.ssh/id_ed25519.pub",
	}
	a.specCommand(start, nil, "", "")
	start.RunE = func(cmd *cobra.Command, words []string) error {
		want := &pb.Rescue{Timeout: timeout}
		for _, k := range keys {
			text, err := keyText(k)
			if err != nil {
				return err
			}
			want.AuthorizedKeys = append(want.AuthorizedKeys, text...)
		}
		if len(want.AuthorizedKeys) == 0 {
			return usageError{errors.New("whose rescue is it? give --key with an OpenSSH public key, or a file of them")}
		}
		run := a.specCommand(&cobra.Command{}, func(s *pb.MachineSpec) bool {
			s.Rescue = want
			return true
		}, "is booted for its rescue: `bedplate machine explain` says how to log in", "")
		run.SetContext(cmd.Context())
		return run.RunE(run, words)
	}
	start.Flags().StringArrayVarP(&keys, "key", "k", nil, "OpenSSH public `key` that may log in, or a file of them; may be repeated")
	start.Flags().StringVar(&timeout, "for", "", "how `long` it may last, such as 4h (default 24h)")
	end := a.specCommand(&cobra.Command{Use: "end NAME...", Short: "End rescues: machines boot what they had"}, func(s *pb.MachineSpec) bool {
		changed := s.Rescue != nil
		s.Rescue = nil
		return changed
	}, "is brought back", "it is not in rescue")
	noun.AddCommand(start, end)
	return noun
}

// keyText returns the keys that a word is, or that the file of that name has.
func keyText(word string) ([]string, error) {
	if strings.Contains(word, " ") {
		return []string{word}, nil
	}
	text, err := os.ReadFile(word)
	if err != nil {
		return nil, usageError{fmt.Errorf("reading keys: %w", err)}
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out, nil
}

func newRetireCommand(a *app) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "retire NAME...",
		Short: "Wipe machines, switch them off, and keep them out of use",
		Long: `Wipe machines, switch them off, and keep them out of use. A machine that an
instance has is retired when that is gone: delete it first. With --undo machines
are brought back; their hardware is then read and tested anew.`,
	}
	a.specCommand(cmd, nil, "", "")
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		done, unchanged := "is being retired: its disks are wiped", "it is retired already"
		if undo {
			done, unchanged = "is brought back", "it is not retired"
		}
		run := a.specCommand(&cobra.Command{}, func(s *pb.MachineSpec) bool {
			changed := s.Retired == undo
			s.Retired = !undo
			return changed
		}, done, unchanged)
		run.SetContext(cmd.Context())
		return run.RunE(run, words)
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "bring them back")
	return cmd
}

// newReinstallCommand asks for an instance to be installed again.
func newReinstallCommand(a *app) *cobra.Command {
	kind := mustKind("Instance")
	cmd := &cobra.Command{
		Use:   "reinstall NAME",
		Short: "Install an instance again, on the machine that it has",
		Long: `Install an instance again, on the machine that it has. What is on the disk that it
is installed on is lost; data disks that its spec.storage keeps are kept.`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				out, err := pb.NewInstanceServiceClient(c.conn).ReinstallInstance(ctx, &pb.ReinstallInstanceRequest{Name: words[0]})
				if err != nil {
					return c.nearest(cmd.Context(), kind, words[0], err)
				}
				fprintf(a.stdout, "instance/%s is installed again on machine/%s (%s)\n", words[0], out.GetStatus().GetMachine(), resource.EnumName(out.GetStatus().GetState()))
				return nil
			})
		},
	}
	return cmd
}
