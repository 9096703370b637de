// Package lease decides which client has which IPv4 address. It is pure: it
// does no I/O, has no lock and no clock; every method that depends on time
// takes now. Whoever owns a Pool makes its calls one at a time.
//
// An address goes through these states:
//
//	free ──Offer──▶ held ──Bind──▶ bound ──time──▶ expired ──Offer by another──▶ held
//	  ▲               │ Cancel,      │ Release        │ Offer or Bind by the same client
//	  └───────────────┴─time─────────┘                └──▶ held, bound
//	any ──Decline, Quarantine──▶ quarantined ──time──▶ free
//
// A hold lives in memory only; a bound lease is to be durable before Bind is
// called (Hold keeps the address while that is written). An expired lease keeps
// its client until the address is needed, so that a machine that comes back
// after a week gets the address it had. Addresses that were never used go
// first, then the one that has been free the longest.
//
// Every operation takes O(log n) of the addresses in use, except Restore,
// Sweep, Leases and Check, which go through all of them.
package lease

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/bedplate/bedplate/machine"
)

// Client identifies a client within one network. It is opaque octets; compare
// it, use it as a key, and show it with String.
type Client string

// ClientOf returns the identity of a client with an Ethernet address: that
// address, whatever client identifier it sends. RFC 2131 §4.2 would have the
// identifier be the key; but on the way to an installed system the firmware,
// iPXE, the agent and the system's own DHCP client send four different ones
// (option 97's GUID, 01+MAC, none, a DUID) from one network card, and a machine
// that changes its address at each stage can't be followed. Without an Ethernet
// address it is the identifier, and without that the hardware address as it is.
func ClientOf(mac machine.MAC, hardwareType uint16, hardware, identifier []byte) Client {
	switch {
	case !mac.IsZero():
		return Client("\x01" + string(mac[:]))
	case len(identifier) > 0:
		return Client("\x00" + string(identifier))
	default:
		return Client("\x02" + string([]byte{byte(hardwareType >> 8), byte(hardwareType)}) + string(hardware))
	}
}

// String returns mac:, id: or hw: and the octets in hexadecimal.
func (c Client) String() string {
	if c == "" {
		return ""
	}
	prefix := [...]string{"id:", "mac:", "hw:"}[min(c[0], 2)]
	return prefix + hex.EncodeToString([]byte(c[1:]))
}

// ParseClient is the inverse of String.
func ParseClient(s string) (Client, error) {
	for kind, prefix := range [...]string{"id:", "mac:", "hw:"} {
		if len(s) < len(prefix) || s[:len(prefix)] != prefix {
			continue
		}
		b, err := hex.DecodeString(s[len(prefix):])
		if err != nil {
			return "", fmt.Errorf("%q: not a lease client such as mac:525400770001", s)
		}
		return Client(string([]byte{byte(kind)}) + string(b)), nil
	}
	return "", fmt.Errorf("%q: not a lease client such as mac:525400770001", s)
}

// MarshalText is String, so that a Lease can be stored as JSON.
func (c Client) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is ParseClient; empty text is no client.
func (c *Client) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*c = ""
		return nil
	}
	parsed, err := ParseClient(string(b))
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}

// Lease is an address that a client was given. Network and Address are its key:
// storing a lease replaces the one of the same key.
type Lease struct {
	// Network is the name of the network that Address belongs to.
	Network string
	Address netip.Addr
	Client  Client
	// MAC is zero for a client without an Ethernet address.
	MAC machine.MAC
	// Identifier is option 61 as the client last sent it, for people.
	Identifier []byte
	// Hostname is option 12 as the client last sent it, for people. It is not checked.
	Hostname string
	// Start is when the client was first given the address, Renewed when it last was.
	Start, Renewed time.Time
	Expires        time.Time
	// Reserved is set when a machine's interface asks for this address.
	Reserved bool
}

// Expired reports whether the lease is over at now.
func (l Lease) Expired(now time.Time) bool { return !now.Before(l.Expires) }

// Range is addresses from Start to End, both included.
type Range struct{ Start, End netip.Addr }

// contains reports whether a lies in the range.
func (r Range) contains(a netip.Addr) bool {
	return r.Start.Compare(a) <= 0 && a.Compare(r.End) <= 0
}

// size returns the number of addresses in the range.
func (r Range) size() uint64 {
	if !r.Start.Is4() || !r.End.Is4() || r.End.Less(r.Start) {
		return 0
	}
	return uint64(number(r.End)) - uint64(number(r.Start)) + 1
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// Errors of Offer and OfferReserved.
var (
	// ErrExhausted means that every address of the ranges is in use, held,
	// quarantined or not usable for this client.
	ErrExhausted = errors.New("no address left in the pool")
	// ErrTaken means that another client has the address, or that it is quarantined.
	ErrTaken = errors.New("the address is in use")
)
