package bmc

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/machine"
)

// Protocol is what a BMC is spoken to with.
type Protocol string

// The protocols. The zero value tries Redfish first, and IPMI where nothing
// answers Redfish; a BMC with both is driven by Redfish, with IPMI for what its
// Redfish can't do (serial console, NMI).
const (
	ProtocolAuto    Protocol = ""
	ProtocolRedfish Protocol = "redfish"
	ProtocolIPMI    Protocol = "ipmi"
)

// ParseProtocol reads auto (or nothing), redfish or ipmi.
func ParseProtocol(s string) (Protocol, error) {
	switch p := Protocol(strings.ToLower(s)); p {
	case ProtocolRedfish, ProtocolIPMI, ProtocolAuto:
		return p, nil
	case "auto":
		return ProtocolAuto, nil
	}
	return "", fmt.Errorf("%q is no BMC protocol: use auto, redfish or ipmi", s)
}

// String returns auto, redfish or ipmi.
func (p Protocol) String() string {
	if p == ProtocolAuto {
		return "auto"
	}
	return string(p)
}

// Target is a BMC and how to log in to it. It may be copied and printed: no
// form of printing shows the password.
type Target struct {
	// Machine is whose BMC it is; it may be empty while nobody knows.
	Machine machine.Name
	// Address is a host name or IP address, with a port if it isn't the
	// protocol's own (443 for Redfish, 623 for IPMI). A scheme, https:// or
	// http://, is accepted in front; http:// is refused unless TLS.Plaintext is set.
	// With ProtocolAuto the port is Redfish's, and IPMI is tried on 623.
	Address  string
	Protocol Protocol
	// Driver is a vendor's, by its name in package vendor. Empty: those of the
	// protocol, and the vendor's for what they lack.
	Driver   string
	Username string
	Password string
	TLS      TLS
	// System is the ID of the system behind a BMC that has several (blade
	// enclosures). Empty: the only one, or the first that is a physical machine.
	System string
	// IPMIPort is the UDP port of IPMI where Address doesn't name it. Zero: 623.
	IPMIPort uint16
	// CipherSuite is IPMI's cipher suite (IPMI 2.0 table 22-20). Zero: 17, then 3.
	CipherSuite uint8
	// SSH is how the serial console is reached, where that isn't by IPMI.
	SSH *SSH
}

// SSH is a BMC's shell, as the way to the serial console.
type SSH struct {
	// Port is the TCP port. Zero: what Redfish says, else 22.
	Port uint16
	// Command gets the console from the shell. Empty: what Redfish says, else what
	// the vendor has; "-": the shell is the console.
	Command string
	// HostKey is the fingerprint of the only key that is accepted, as ssh-keygen -l
	// prints it. Empty: any, and Seen is told.
	HostKey string
	// Seen is told the fingerprint of the key that was taken at its word, once the
	// BMC has accepted the login. It may be nil and must not block.
	Seen func(fingerprint string)
}

// TLS is how a BMC's certificate is checked. The zero value takes the
// certificate of the first contact at its word and reports its Pin
// (Config.Pinned), which the caller keeps and sets here from then on.
type TLS struct {
	// Pin is the only key or certificate that is accepted.
	Pin Pin
	// Roots are the CAs that may have signed the certificate, which then has to
	// name the host of Target.Address (or ServerName) and be in date.
	Roots *x509.CertPool
	// ServerName is the name to check the certificate for. Empty: the host of Target.Address.
	ServerName string
	// Insecure accepts any certificate: anyone on the way can read the password.
	Insecure bool
	// Plaintext speaks HTTP without TLS: for labs.
	Plaintext bool
}

// equal reports whether t and u check alike.
func (t TLS) equal(u TLS) bool {
	return t.Pin == u.Pin && t.ServerName == u.ServerName && t.Insecure == u.Insecure && t.Plaintext == u.Plaintext &&
		(t.Roots == u.Roots || t.Roots != nil && u.Roots != nil && t.Roots.Equal(u.Roots))
}

// HostPort returns the address's host, and its port or else def. IPv6
// addresses may come with or without brackets.
func (t Target) HostPort(def uint16) (host string, port uint16, err error) {
	addr := t.Address
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		addr = rest
	}
	addr = strings.TrimSuffix(addr, "/")
	if addr == "" {
		return "", 0, fmt.Errorf("BMC of machine %s has no address: set spec.bmc.address", t.Machine)
	}
	if strings.ContainsAny(addr, "/?#@ ") {
		return "", 0, fmt.Errorf("BMC address %q: want a host name or address, with or without a port", addr)
	}
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		if host = strings.Trim(addr, "[]"); host == "" {
			return "", 0, fmt.Errorf("BMC address %q: want a host name or address, with or without a port", addr)
		}
		return host, def, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("BMC address %q: port must be 1 to 65535", addr)
	}
	return host, uint16(n), nil
}

// Format prints the target without its password, whatever the verb.
func (t Target) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, t.String()) }

// String returns user, address and protocol.
func (t Target) String() string {
	return fmt.Sprintf("%s@%s (%s)", t.Username, t.Address, t.Protocol)
}

// LogValue is how a target is logged: without its password.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.Address) }
