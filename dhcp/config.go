package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/machine"
)

// Machines finds machines in memory. Its methods must not block.
type Machines interface {
	ByMAC(machine.MAC) (machine.Machine, bool)
	ByUUID(machine.UUID) (machine.Machine, bool)
	// ByAddress finds the machine that an address is reserved for. It may find
	// one by lease too: an address counts as reserved only if an interface has it.
	ByAddress(netip.Addr) (machine.Machine, bool)
}

// Leases keeps leases through a restart. The key of a lease is its Network and
// Address. All methods may be called by several goroutines at once; each call
// has a deadline.
type Leases interface {
	// Load returns every lease, of all networks.
	Load(context.Context) ([]lease.Lease, error)
	// Put stores a lease in place of the one with the same key. It is durable on return.
	Put(context.Context, lease.Lease) error
	// Delete removes the lease with the same key; that there is none is no error.
	Delete(context.Context, lease.Lease) error
}

// Observer is told what was seen of machines. It must not block.
type Observer interface{ Observe(machine.Sighting) }

// Config is what a Server needs. Machines, Leases, BootFiles, HTTPBase and Now
// are required.
type Config struct {
	// Interfaces to serve on. Empty: those that a network names or has its
	// addresses on; and for networks that are only reached through relay
	// agents, all that are up and have an address.
	Interfaces []string
	Machines   Machines
	Leases     Leases
	// BootFiles names boot files, by the one table in package ipxe.
	BootFiles pxe.Files
	// HTTPBase returns the base of boot URLs, such as http://10.77.0.1:8080,
	// for clients that know the server by this address.
	HTTPBase func(server netip.Addr) string
	// Observer may be nil.
	Observer Observer
	// LeaseChanged, if set, is called after a lease was made or renewed
	// (released false) and after it was given back, declined, replaced or ran
	// out (released true), for one address in the order of events. It must not
	// block, nor call the Server.
	LeaseChanged func(l lease.Lease, released bool)
	// Now is the clock.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Workers is how many messages are worked on at once; 64. Most of them wait
	// for the store, which writes what waits in one go.
	Workers int
	// ProbeTimeout is how long an ICMP echo waits; 250 ms. Firmware that has no
	// offer after 4 s asks again.
	ProbeTimeout time.Duration
	// PutTimeout is how long a lease may take to be made durable; 5 s.
	PutTimeout time.Duration
	// ServerPort, BootServerPort and ClientPort are 67, 4011 and 68 when 0.
	// Other values are for tests.
	ServerPort, BootServerPort, ClientPort uint16
}

func (c Config) validate() error {
	switch {
	case c.Machines == nil:
		return errors.New("dhcp: Config.Machines is missing")
	case c.Leases == nil:
		return errors.New("dhcp: Config.Leases is missing")
	case c.BootFiles == nil:
		return errors.New("dhcp: Config.BootFiles is missing")
	case c.HTTPBase == nil:
		return errors.New("dhcp: Config.HTTPBase is missing")
	case c.Now == nil:
		return errors.New("dhcp: Config.Now is missing")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Workers <= 0 {
		c.Workers = 64
	}
	if c.ProbeTimeout <= 0 {
		c.ProbeTimeout = 250 * time.Millisecond
	}
	if c.PutTimeout <= 0 {
		c.PutTimeout = 5 * time.Second
	}
	if c.ServerPort == 0 {
		c.ServerPort = 67
	}
	if c.BootServerPort == 0 {
		c.BootServerPort = 4011
	}
	if c.ClientPort == 0 {
		c.ClientPort = 68
	}
	return c
}
