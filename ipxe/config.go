package ipxe

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/ipxe/script"
	"github.com/bedplate/bedplate/machine"
)

// Machines finds machines in memory.
type Machines interface {
	ByMAC(machine.MAC) (machine.Machine, bool)
	ByUUID(machine.UUID) (machine.Machine, bool)
	BySerial(string) (machine.Machine, bool)
	// ByAddress returns the machine that holds an address by reservation or lease.
	ByAddress(netip.Addr) (machine.Machine, bool)
}

// Tokens makes boot tokens.
type Tokens interface {
	// BootToken returns a token that lets one machine enrol in one boot. An
	// empty name is for the discovery of the machine with that MAC address. It
	// must be text without spaces.
	BootToken(machine.Name, machine.MAC) (string, error)
}

// Observer is told what was seen of machines. Observe must not block.
type Observer interface {
	Observe(machine.Sighting)
}

// UnknownPolicy says what a machine gets that is not on record.
type UnknownPolicy uint8

// The policies. The zero value gives nothing to strangers.
const (
	// UnknownIgnore answers 404: the machine goes on with its boot order.
	UnknownIgnore UnknownPolicy = iota
	// UnknownDiscover boots the agent with a token for discovery.
	UnknownDiscover
	// UnknownRefuse shows a message on the console.
	UnknownRefuse
)

// String returns ignore, discover or refuse.
func (p UnknownPolicy) String() string {
	switch p {
	case UnknownDiscover:
		return "discover"
	case UnknownRefuse:
		return "refuse"
	default:
		return "ignore"
	}
}

// Config is what a Server is made from. BootFiles, Machines, Tokens, CADigest,
// AgentAddress and Now are required.
type Config struct {
	BootFiles *BootFiles
	Machines  Machines
	Tokens    Tokens
	// Unknown returns the policy for machines on peer's network. Nil: ignore.
	Unknown func(peer netip.Addr) UnknownPolicy
	// StrictAddress says whether peer is on a network where this server gives
	// out every address: boot tokens are refused there to addresses that belong
	// to no known machine. Nil: nowhere.
	StrictAddress func(peer netip.Addr) bool

	// Live returns the system that a machine runs in memory, in place of one on
	// its disk; base is that of URLs for it. False: it has none. Nil: no machine has.
	Live func(m machine.Machine, base string) (script.Live, bool, error)

	// HTTPBase returns the base of URLs for a machine at peer, without a slash
	// at the end. Nil, or "" returned: the address that the request came in on.
	// TFTP requests do not say what that is, so GRUB over TFTP needs it.
	HTTPBase func(peer netip.Addr) string
	// AgentAddress returns HOST:PORT of the agents' service for a machine at
	// peer that asked at local; local is invalid when the request came by TFTP.
	AgentAddress func(peer, local netip.Addr) string
	// CADigest is the SHA-256 of the DER of the CA certificate, as `sha256:HEX`.
	CADigest string
	// KernelPath and InitramfsPath are the agent's system. They are opened anew
	// for each request, so that a newly built system is served at once.
	KernelPath, InitramfsPath string
	// KernelArgs come first in the agent's arguments, for every machine. Nil: quiet.
	KernelArgs []string

	// Observer, Logger and Registerer may be nil.
	Observer   Observer
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.BootFiles == nil:
		return errors.New("ipxe: Config.BootFiles is missing")
	case c.Machines == nil:
		return errors.New("ipxe: Config.Machines is missing")
	case c.Tokens == nil:
		return errors.New("ipxe: Config.Tokens is missing")
	case c.CADigest == "":
		return errors.New("ipxe: Config.CADigest is missing")
	case c.AgentAddress == nil:
		return errors.New("ipxe: Config.AgentAddress is missing")
	case c.Now == nil:
		return errors.New("ipxe: Config.Now is missing")
	}
	return nil
}
