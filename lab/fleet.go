package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bedplate/bedplate/lab/board"
)

// FleetConfig defines BMCs without machines.
type FleetConfig struct {
	// Count is how many; at most 10,000.
	Count int
	// Name is the start of their names, which end in numbers. Default: sim.
	Name string
	// Dir keeps settings and virtual media, a folder each; empty keeps
	// settings in memory, and refuses media.
	Dir string
	// Address of the first; the others follow. Zero: 127.0.0.1 for all.
	Address netip.Addr
	// RedfishPort and IPMIPort are the same for all, which then need addresses
	// of their own; 0 takes free ones.
	RedfishPort, IPMIPort int
	// Protocols default to redfish and ipmi.
	Protocols []string
	// Username and Password default to admin and FactoryPassword of each serial number.
	Username, Password string
	// UEFI gives the machines that firmware; else it is BIOS.
	UEFI bool
	// BootTime is how long after power-on a machine's system hears the power
	// button; ShutdownTime how long it takes to go down. Both default to nothing.
	BootTime, ShutdownTime time.Duration
	// Faults that all have from the start; see board.ParseFault.
	Faults []string
	Now    func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Fleet is many BMCs in one process, each with a simulated machine, speaking
// Redfish and IPMI as those of a lab do.
type Fleet struct {
	bmcs     []*BMC
	machines []*Simulated
}

const maxFleet = 10_000

// NewFleet starts a fleet. Close must be called after use.
func NewFleet(ctx context.Context, cfg FleetConfig) (*Fleet, error) {
	if cfg.Count < 1 || cfg.Count > maxFleet {
		return nil, fmt.Errorf("a fleet of %d: want 1 to %d", cfg.Count, maxFleet)
	}
	if cfg.Now == nil {
		return nil, errors.New("a fleet needs a clock")
	}
	if cfg.Name == "" {
		cfg.Name = "sim"
	}
	if cfg.Username == "" {
		cfg.Username = "admin"
	}
	if len(cfg.Protocols) == 0 {
		cfg.Protocols = []string{ProtocolRedfish, ProtocolIPMI}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{}
	address := cfg.Address
	for i := range cfg.Count {
		if err := f.add(ctx, cfg, i, address); err != nil {
			f.Close()
			return nil, fmt.Errorf("starting BMC %d of the fleet: %w", i+1, err)
		}
		if address.IsValid() {
			address = address.Next()
		}
	}
	return f, nil
}

func (f *Fleet) add(ctx context.Context, cfg FleetConfig, i int, address netip.Addr) error {
	h := simulatedHardware(cfg, i)
	spec := BMCSpec{Username: cfg.Username, Password: cfg.Password, Protocols: cfg.Protocols, Faults: cfg.Faults}
	if spec.Password == "" {
		spec.Password = FactoryPassword(h.Serial)
	}
	faults, err := spec.faults()
	if err != nil {
		return err
	}
	dir := ""
	if cfg.Dir != "" {
		dir = filepath.Join(cfg.Dir, h.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	m := NewSimulated(h, cfg.BootTime, cfg.ShutdownTime, cfg.Now)
	b, err := board.New(board.Config{
		Machine: m, Dir: dir, Username: spec.Username, Password: spec.Password, MAC: fmt.Sprintf("52:54:bc:%02x:%02x:%02x", i>>16, i>>8&0xff, i&0xff),
		Faults: faults, Now: cfg.Now, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	m.Attach(b)
	host := "127.0.0.1"
	if address.IsValid() {
		host = address.String()
	}
	bmc, err := startBMC(ctx, b, spec, dir, loopback(host, cfg), cfg.Log)
	if err != nil {
		m.Close()
		return err
	}
	f.bmcs, f.machines = append(f.bmcs, bmc), append(f.machines, m)
	return nil
}

// loopback listens on the fleet's own ports in place of the usual ones.
func loopback(host string, cfg FleetConfig) listen {
	var config net.ListenConfig
	return listen{
		tcp: func(ctx context.Context, _ int) (net.Listener, error) {
			return config.Listen(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(cfg.RedfishPort)))
		},
		udp: func(ctx context.Context, _ int) (net.PacketConn, error) {
			return config.ListenPacket(ctx, "udp", net.JoinHostPort(host, fmt.Sprint(cfg.IPMIPort)))
		},
	}
}

func simulatedHardware(cfg FleetConfig, i int) board.Hardware {
	name := fmt.Sprintf("%s%04d", cfg.Name, i+1)
	return board.Hardware{
		Name: name, Manufacturer: manufacturer, Model: product, Serial: strings.ToUpper(name), AssetTag: name,
		UUID: fmt.Sprintf("b3d91a7e-0000-4000-8000-%012x", i+1), UEFI: cfg.UEFI, SecureBoot: cfg.UEFI, CPUs: 4, CPUModel: "Simulated CPU", Memory: 16 << 30, BIOSVersion: biosVersion,
		NICs:  []board.NIC{{Name: nicDevice(0), MAC: fmt.Sprintf("52:54:01:%02x:%02x:%02x", i>>16, i>>8&0xff, i&0xff), Model: "virtio"}},
		Disks: []board.Disk{{Name: diskDevice(0), Serial: strings.ToUpper(name) + "-D0", Model: "Simulated nvme disk", Bus: "nvme", Size: 480 << 30}},
	}
}

// BMCs returns all BMCs, in order.
func (f *Fleet) BMCs() []*BMC { return f.bmcs }

// Machines returns the machines, in the order of their BMCs.
func (f *Fleet) Machines() []*Simulated { return f.machines }

// Close ends all BMCs and waits for them.
func (f *Fleet) Close() {
	for i := range f.bmcs {
		f.bmcs[i].close()
		f.machines[i].Close()
	}
}
