package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/lab"
)

// fleetFlags are the flags of `lab fleet`.
type fleetFlags struct {
	count                 int
	address               string
	redfishPort, ipmiPort int
	protocols, faults     []string
	username, password    string
	boot                  time.Duration
	uefi                  bool
	dir                   string
}

func newLabFleetCommand(a *app) *cobra.Command {
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Run many BMCs with simulated machines, until interrupted",
		Long: `Run many BMCs in this process, without QEMU: each drives a machine that is
nothing but its power. They speak Redfish and IPMI as the BMCs of a lab do, so
that hundreds can be polled and powered.

Without --address they share 127.0.0.1, each with ports of its own. With it
each has an address of its own and the usual ports, 443 and 623.`,
		Example: `  bedplate lab fleet --count 500
  bedplate lab fleet --count 500 --address 127.9.0.1 --password secret`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runFleet(cmd, f) },
	}
	flags := cmd.Flags()
	flags.IntVar(&f.count, "count", 10, "`number` of BMCs")
	flags.StringVar(&f.address, "address", "", "`address` of the first BMC; the others follow")
	flags.IntVar(&f.redfishPort, "redfish-port", 443, "with --address: `port` of Redfish")
	flags.IntVar(&f.ipmiPort, "ipmi-port", 623, "with --address: UDP `port` of IPMI")
	flags.StringSliceVar(&f.protocols, "protocols", nil, "redfish, redfish-http, ipmi (default redfish,ipmi)")
	flags.StringSliceVar(&f.faults, "faults", nil, "faults that all have; see `lab fault`")
	flags.StringVar(&f.username, "username", "admin", "user `name` of all")
	flags.StringVar(&f.password, "password", "", "`password` of all (default one each, by serial number)")
	flags.DurationVar(&f.boot, "boot-time", 30*time.Second, "how long a machine boots before it hears the power button")
	flags.BoolVar(&f.uefi, "uefi", false, "the machines have UEFI firmware")
	flags.StringVar(&f.dir, "state-dir", "", "`directory` for settings and virtual media (default none: they are lost at the end)")
	return cmd
}

func (a *app) runFleet(cmd *cobra.Command, f fleetFlags) error {
	cfg := lab.FleetConfig{
		Count: f.count, Dir: f.dir, Protocols: f.protocols, Username: f.username, Password: f.password, UEFI: f.uefi, BootTime: f.boot,
		Faults: f.faults, Now: a.now, Log: slog.New(slog.NewTextHandler(a.stderr, nil)),
	}
	if f.address != "" {
		address, err := netip.ParseAddr(f.address)
		if err != nil {
			return usageError{fmt.Errorf("--address: %w", err)}
		}
		cfg.Address, cfg.RedfishPort, cfg.IPMIPort = address, f.redfishPort, f.ipmiPort
	}
	fleet, err := lab.NewFleet(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer fleet.Close()
	t := table.Table{Header: []string{"NAME", "REDFISH", "IPMI", "USERNAME", "PASSWORD"}}
	for i, b := range fleet.BMCs() {
		username, password := b.Login()
		t.Add(fleet.Machines()[i].Hardware().Name, b.Redfish(), b.IPMI(), username, password)
	}
	if err := t.Write(a.stdout); err != nil {
		return err
	}
	<-cmd.Context().Done()
	return nil
}
