package lab

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/lab/board"
)

// BMCSpec defines a machine's management controller.
type BMCSpec struct {
	// Address is on the machine's network. Default: from .201 on.
	Address string `yaml:"address" json:"address"`
	// Username and Password of the account that it is delivered with.
	// Default: admin, and a password made from the serial number.
	Username string `yaml:"username" json:"username"`
	Password string `yaml:"password" json:"password"`
	// Protocols are redfish (HTTPS), redfish-http, ipmi; or none alone.
	// Default: redfish, ipmi.
	Protocols []string `yaml:"protocols" json:"protocols"`
	// Faults that it has from the start; see board.FaultKinds.
	Faults []string `yaml:"faults" json:"faults,omitempty"`
}

// Protocols of BMCs.
const (
	ProtocolRedfish     = "redfish"
	ProtocolRedfishHTTP = "redfish-http"
	ProtocolIPMI        = "ipmi"
)

// defaultBMCHost is the last number of the first machine's BMC in a network of
// 256 addresses or more. Later ones follow; those past the end count down from it.
const defaultBMCHost = 201

// FactoryPassword is what a BMC is delivered with, as if printed on the machine's tag.
func FactoryPassword(serial string) string {
	sum := sha256.Sum256([]byte("bedplate-lab/" + serial))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:12])
}

// setDefaults fills in what is empty. i is the machine's place in the list.
func (b *BMCSpec) setDefaults(s *Spec, m *MachineSpec, i int) {
	if b.Username == "" {
		b.Username = "admin"
	}
	if b.Password == "" {
		b.Password = FactoryPassword(m.Serial)
	}
	if len(b.Protocols) == 0 {
		b.Protocols = []string{ProtocolRedfish, ProtocolIPMI}
	}
	if n, err := s.network(m.Network); err == nil && b.Address == "" && b.there() {
		b.Address = bmcAddress(n, i)
	}
}

// bmcAddress is the i-th BMC's address on a network; empty if there is no room.
func bmcAddress(n Network, i int) string {
	p, err := netip.ParsePrefix(n.Address)
	if err != nil || !p.Addr().Is4() {
		return ""
	}
	host := defaultBMCHost + i
	if host > 254 {
		host = defaultBMCHost - (host - 254)
	}
	a := p.Addr().As4()
	a[3] = byte(host)
	if addr := netip.AddrFrom4(a); p.Contains(addr) && addr != p.Addr() {
		return addr.String()
	}
	return ""
}

func (b *BMCSpec) check(s *Spec, m *MachineSpec) error {
	if _, err := b.faults(); err != nil {
		return err
	}
	if !b.there() {
		return nil
	}
	for _, p := range b.Protocols {
		if !slices.Contains([]string{ProtocolRedfish, ProtocolRedfishHTTP, ProtocolIPMI}, p) {
			return fmt.Errorf("protocol %q: want redfish, redfish-http, ipmi, or none alone", p)
		}
	}
	n, err := s.network(m.Network)
	if err != nil {
		return err
	}
	p := netip.MustParsePrefix(n.Address)
	a, err := netip.ParseAddr(b.Address)
	if err != nil || !p.Contains(a) || a == p.Addr() {
		return fmt.Errorf("address %q: want one on network %s (%s) that isn't the bridge's", b.Address, n.Name, n.Address)
	}
	if len(b.Username) > 16 || len(b.Password) < 4 || len(b.Password) > 20 {
		return fmt.Errorf("want a user name up to 16 characters and a password of 4 to 20, as IPMI does")
	}
	return nil
}

// there reports whether the machine has a BMC.
func (b *BMCSpec) there() bool { return !slices.Equal(b.Protocols, []string{"none"}) }

func (b *BMCSpec) faults() ([]board.Fault, error) {
	var all []board.Fault
	for _, s := range b.Faults {
		f, err := board.ParseFault(s)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// Redfish is the URL of the service; empty if there is none.
func (b *BMCSpec) Redfish() string {
	switch {
	case slices.Contains(b.Protocols, ProtocolRedfish):
		return "https://" + b.Address
	case slices.Contains(b.Protocols, ProtocolRedfishHTTP):
		return "http://" + b.Address
	}
	return ""
}
