package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// newReadCommand makes a command that reads something of one machine's BMC.
func newReadCommand[T proto.Message](a *app, use, short string, read func(context.Context, pb.MachineServiceClient, string) ([]T, error), list bool, t func([]T) *table.Table) *cobra.Command {
	var out output
	kind := mustKind("Machine")
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeOne(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				all, err := read(ctx, pb.NewMachineServiceClient(c.conn), words[0])
				if err != nil {
					return c.nearest(cmd.Context(), kind, words[0], err)
				}
				if len(all) == 0 && (out.format == formatTable || out.format == formatWide) {
					fprintf(a.stderr, "nothing there\n")
					return nil
				}
				return printMessages(a, out, list, all, func() *table.Table { return t(all) })
			})
		},
	}
	out.addFlags(cmd)
	return cmd
}

func newSensorsCommand(a *app) *cobra.Command {
	return newReadCommand(a, "sensors NAME", "Read a machine's temperatures, fans, voltages and power",
		func(ctx context.Context, m pb.MachineServiceClient, name string) ([]*pb.Sensor, error) {
			r, err := m.ListMachineSensors(ctx, &pb.ListMachineSensorsRequest{Name: name})
			return r.GetSensors(), err
		}, true, func(all []*pb.Sensor) *table.Table {
			t := &table.Table{Header: []string{"SENSOR", "KIND", "VALUE", "HEALTH"}}
			for _, s := range all {
				value := "not present"
				if s.GetPresent() {
					value = strings.TrimSpace(strconv.FormatFloat(s.GetValue(), 'f', -1, 64) + " " + s.GetUnit())
				}
				t.Add(a.colored(3, clean(s.GetName(), s.GetKind(), value, s.GetHealth()))...)
			}
			return t
		})
}

// colored gives one cell the colour of its word.
func (a *app) colored(i int, cells []string) []string {
	style := a.style(a.stdout)
	switch cells[i] {
	case "critical":
		cells[i] = style.Bad(cells[i])
	case "warning":
		cells[i] = style.Busy(cells[i])
	case "ok":
		cells[i] = style.Good(cells[i])
	}
	return cells
}

func newEventLogCommand(a *app) *cobra.Command {
	var limit int32
	cmd := newReadCommand(a, "eventlog NAME", "Read or clear the event log of a machine's BMC",
		func(ctx context.Context, m pb.MachineServiceClient, name string) ([]*pb.BMCLogEntry, error) {
			r, err := m.ListMachineEventLog(ctx, &pb.ListMachineEventLogRequest{Name: name, Limit: limit})
			return r.GetEntries(), err
		}, true, func(all []*pb.BMCLogEntry) *table.Table {
			t := &table.Table{Header: []string{"TIME", "SEVERITY", "SENSOR", "MESSAGE"}}
			for _, e := range all {
				when := ""
				if e.GetTime() != nil {
					when = e.GetTime().AsTime().In(a.zone).Format("2006-01-02 15:04:05")
				}
				t.Add(a.colored(1, clean(when, e.GetSeverity(), e.GetSensor(), table.Truncate(e.GetMessage(), maxCell)))...)
			}
			return t
		})
	cmd.Flags().Int32Var(&limit, "limit", 0, "only the newest so `many`")
	cmd.AddCommand(newJobCommandOn(a, "clear NAME", "Clear the event log of a machine's BMC", "eventlog", cobra.ExactArgs(1), func([]string) ([]*pb.Operation, error) {
		return []*pb.Operation{{Operation: &pb.Operation_ClearEventLog{ClearEventLog: &pb.EventLogOperation{}}}}, nil
	}))
	return cmd
}

func newBIOSCommand(a *app) *cobra.Command {
	noun := &cobra.Command{Use: "bios", Short: "Read and change the settings of a machine's firmware"}
	get := newReadCommand(a, "get NAME", "Read the settings of a machine's firmware",
		func(ctx context.Context, m pb.MachineServiceClient, name string) ([]*pb.BIOSSetting, error) {
			r, err := m.ListMachineBIOS(ctx, &pb.ListMachineBIOSRequest{Name: name})
			return r.GetSettings(), err
		}, true, func(all []*pb.BIOSSetting) *table.Table {
			t := &table.Table{Header: []string{"SETTING", "VALUE", "AFTER RESTART"}}
			for _, s := range all {
				t.Add(clean(s.GetName(), s.GetValue(), s.GetPending())...)
			}
			return t
		})
	var reset bool
	set := newJobCommandOn(a, "set NAME SETTING=VALUE...", "Change settings of a machine's firmware, from its next restart on", "bios", cobra.MinimumNArgs(1), func(words []string) ([]*pb.Operation, error) {
		settings, err := parseSettings(words[1:])
		if err == nil && len(settings) == 0 && !reset {
			err = usageError{fmt.Errorf("nothing to change: give settings such as ProcTurboMode=Disabled, or --reset")}
		}
		return []*pb.Operation{{Operation: &pb.Operation_Bios{Bios: &pb.BIOSOperation{Attributes: settings, Reset_: reset}}}}, err
	})
	set.Flags().BoolVar(&reset, "reset", false, "set all to the factory's first")
	noun.AddCommand(get, set)
	return noun
}

// parseSettings reads NAME=VALUE words.
func parseSettings(words []string) (map[string]string, error) {
	out := map[string]string{}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("%q is not of the form SETTING=VALUE", w)}
		}
		out[name] = value
	}
	return out, nil
}

func newFirmwareCommand(a *app) *cobra.Command {
	noun := &cobra.Command{Use: "firmware", Short: "Show and update a machine's firmware"}
	list := newReadCommand(a, "list NAME", "Show what firmware a machine has",
		func(ctx context.Context, m pb.MachineServiceClient, name string) ([]*pb.FirmwareComponent, error) {
			r, err := m.ListMachineFirmware(ctx, &pb.ListMachineFirmwareRequest{Name: name})
			return r.GetComponents(), err
		}, true, func(all []*pb.FirmwareComponent) *table.Table {
			t := &table.Table{Header: []string{"COMPONENT", "NAME", "VERSION", "UPDATABLE"}}
			for _, f := range all {
				t.Add(clean(f.GetId(), f.GetName(), f.GetVersion(), yesNo(f.GetUpdatable()))...)
			}
			return t
		})
	op := &pb.FirmwareOperation{}
	update := newJobCommandOn(a, "update NAME URL", "Update a machine's firmware", "firmware", cobra.ExactArgs(2), func(words []string) ([]*pb.Operation, error) {
		op.Url = words[1]
		return []*pb.Operation{{Operation: &pb.Operation_Firmware{Firmware: op}}}, nil
	})
	update.Long = `Update a machine's firmware with the image at URL, which the BMC fetches itself; with
--push the server fetches it, checks its digest, and sends it to the BMC. The
update is followed by the BMC's own task, also when the server is restarted.`
	update.Example = "  bedplate machine firmware update web-1 https://mirror/bios-2.1.bin --component BIOS --version 2.1\n" +
		"  bedplate machine firmware update web-1 https://mirror/bmc.bin --push --digest sha256:…"
	flags := update.Flags()
	flags.StringVar(&op.Component, "component", "", "`component` as `firmware list` names it (default: the BMC tells from the image)")
	flags.StringVar(&op.Version, "version", "", "`version` that must be there afterwards")
	flags.StringVar(&op.Digest, "digest", "", "`sha256:…` of the image, wanted with --push")
	flags.BoolVar(&op.Push, "push", false, "the server sends the image, for BMCs that can't reach it")
	noun.AddCommand(list, update)
	return noun
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func newSecureBootCommand(a *app) *cobra.Command {
	cmd := newReadCommand(a, "secure-boot NAME", "Show or change a machine's Secure Boot",
		func(ctx context.Context, m pb.MachineServiceClient, name string) ([]*pb.GetMachineSecureBootResponse, error) {
			r, err := m.GetMachineSecureBoot(ctx, &pb.GetMachineSecureBootRequest{Name: name})
			return []*pb.GetMachineSecureBootResponse{r}, err
		}, false, func(all []*pb.GetMachineSecureBootResponse) *table.Table {
			t := &table.Table{Header: []string{"ENABLED", "ACTIVE", "MODE"}}
			for _, s := range all {
				t.Add(clean(yesNo(s.GetEnabled()), yesNo(s.GetActive()), s.GetMode())...)
			}
			return t
		})
	change := func(use, short string, op *pb.SecureBootOperation) *cobra.Command {
		return newJobCommandOn(a, use+" NAME", short, "secure-boot", cobra.ExactArgs(1), func([]string) ([]*pb.Operation, error) {
			return []*pb.Operation{{Operation: &pb.Operation_SecureBoot{SecureBoot: op}}}, nil
		})
	}
	keys := &pb.SecureBootOperation{}
	reset := change("reset-keys", "Restore or delete the keys of Secure Boot, at the next restart", keys)
	reset.Flags().StringVar(&keys.ResetKeys, "to", "default", "default (the vendor's keys), delete-all or delete-pk")
	completeFlag(reset, "to", "default", "delete-all", "delete-pk")
	cmd.AddCommand(
		change("enable", "Enable Secure Boot, from the next restart on", &pb.SecureBootOperation{State: "enable"}),
		change("disable", "Disable Secure Boot, from the next restart on", &pb.SecureBootOperation{State: "disable"}),
		reset)
	return cmd
}
