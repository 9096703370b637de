package resource

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/network"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func checkMachine(s *pb.MachineSpec, errs *FieldErrors) {
	if len(s.GetInterfaces()) == 0 && s.GetUuid() == "" && s.GetSerial() == "" && s.GetBmc().GetAddress() == "" {
		errs.add("spec.interfaces", "missing: a machine is recognised by an interface's MAC address, by spec.uuid, by spec.serial, or known by spec.bmc.address")
	}
	checkHostname("spec.hostname", s.GetHostname(), errs)
	if !isOneWord(s.GetConsole()) {
		errs.add("spec.console", "%q: not a console such as ttyS0,115200n8", s.GetConsole())
	}
	for i, arg := range s.GetKernelArgs() {
		if arg == "" || !isOneWord(arg) {
			errs.add(joinIndex("spec.kernel_args", i), "%q: one argument without spaces", arg)
		}
	}
	if s.Bmc != nil && s.GetBmc().GetAddress() == "" {
		errs.add("spec.bmc.address", "missing")
	}
	checkBMC("spec.bmc", s.GetBmc(), errs)
	checkMachineNetwork(s.GetNetwork(), errs)
	checkReference("spec.pool", s.GetPool(), errs)
	checkDuration("spec.rescue.timeout", s.GetRescue().GetTimeout(), errs)
	for i, key := range s.GetRescue().GetAuthorizedKeys() {
		if !isSSHKey(key) {
			errs.add(joinIndex("spec.rescue.authorized_keys", i), "not an OpenSSH public key such as `ssh-ed25519 AAAA… name`")
		}
	}
	macs, addresses := map[machine.MAC]string{}, map[netip.Addr]string{}
	for i, nic := range s.GetInterfaces() {
		path := joinIndex("spec.interfaces", i)
		if nic.GetMac() == "" && s.GetBmc().GetAddress() == "" {
			errs.add(path+".mac", "missing: only a machine with a spec.bmc may leave it to that")
		}
		checkInterface(path, nic, macs, addresses, errs)
	}
}

// isOneWord keeps what goes on a kernel command line from becoming several
// arguments, or another line of a boot script.
func isOneWord(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
}

func checkInterface(path string, nic *pb.Interface, macs map[machine.MAC]string, addresses map[netip.Addr]string, errs *FieldErrors) {
	if mac, err := machine.ParseMAC(nic.GetMac()); err == nil {
		switch was, taken := macs[mac]; {
		case taken:
			errs.add(path+".mac", "%s is given twice: %s has it too", mac, was)
		case mac.IsZero() || mac[0]&1 != 0:
			errs.add(path+".mac", "%s: not the address of one interface", mac)
		}
		macs[mac] = path
	}
	prefix := checkReserved(path+".address", nic.GetAddress(), errs)
	if prefix.IsValid() {
		if was, taken := addresses[prefix.Addr()]; taken {
			errs.add(path+".address", "%s is given twice: %s has it too", prefix.Addr(), was)
		}
		addresses[prefix.Addr()] = path
	}
	if gw, ok := checkIPv4(path+".gateway", nic.GetGateway(), errs); ok && prefix.IsValid() {
		checkGateway(path+".gateway", gw, prefix, errs)
	}
	for i, ns := range nic.GetNameservers() {
		checkAddress(joinIndex(path+".nameservers", i), ns, errs)
	}
}

// checkReserved reads an address with its prefix length, such as 10.77.0.31/24.
func checkReserved(path, text string, errs *FieldErrors) netip.Prefix {
	if text == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		errs.add(path, "%q: not an address with a prefix length such as 10.77.0.31/24", text)
	case !p.Addr().Is4():
		errs.add(path, "%q: not an IPv4 address", text)
	case !isHost(p.Addr(), p.Masked()):
		errs.add(path, "%s: the first or last address of %s can't be a machine's", p.Addr(), p.Masked())
	default:
		return p
	}
	return netip.Prefix{}
}

func checkGateway(path string, gw netip.Addr, p netip.Prefix, errs *FieldErrors) {
	switch {
	case !p.Contains(gw):
		errs.add(path, "%s is not in %s", gw, p.Masked())
	case !isHost(gw, p.Masked()):
		errs.add(path, "%s: the first or last address of %s can't be a gateway's", gw, p.Masked())
	}
}

// isHost reports whether a is neither network nor broadcast address of p
// (/31 and /32 have none: RFC 3021).
func isHost(a netip.Addr, p netip.Prefix) bool {
	return p.Bits() >= 31 || a != p.Addr() && a != lastAddress(p)
}

// lastAddress returns the highest address of an IPv4 prefix.
func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func checkAddress(path, text string, errs *FieldErrors) (netip.Addr, bool) {
	if text == "" {
		errs.add(path, "empty")
		return netip.Addr{}, false
	}
	return checkIPv4(path, text, errs)
}

// checkIPv4 reads an address; there is none in an empty text, which is fine.
func checkIPv4(path, text string, errs *FieldErrors) (netip.Addr, bool) {
	if text == "" {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		errs.add(path, "%q: not an IPv4 address such as 10.77.0.1", text)
		return netip.Addr{}, false
	}
	return a, true
}

// MachineConflicts reports, as *FieldErrors, what obj claims for itself that
// one of the other machines has already: a MAC address, a reserved address,
// an SMBIOS UUID or a serial number. A machine of obj's own name isn't another.
// It parses every machine: callers with many of them keep an index.
func MachineConflicts(obj *pb.Machine, others []*pb.Machine) error {
	errs := &FieldErrors{Kind: "Machine", Name: obj.GetMetadata().GetName()}
	owners := map[string]string{}
	for _, m := range others {
		if m.GetMetadata().GetName() == errs.Name {
			continue
		}
		for _, c := range Claims(m) {
			owners[c.Value] = m.GetMetadata().GetName()
		}
	}
	for _, c := range Claims(obj) {
		if owner, taken := owners[c.Value]; taken {
			_, text, _ := strings.Cut(c.Value, "=")
			errs.add(c.Path, "%s is machine/%s's already", text, owner)
		}
	}
	if len(errs.Errors) == 0 {
		return nil
	}
	return errs
}

// AnnotationFormerName has the name under which a machine made itself known
// before it was given its present one: the agent of that boot goes by it still.
const AnnotationFormerName = "bedplate/former-name"

// Claim is something that only one machine may have.
type Claim struct {
	// Path is the field that says so.
	Path string
	// Value is comparable between machines: mac=52:54:00:77:00:01,
	// address=10.77.0.31, uuid=…, serial=…, bmc=… or former-name=….
	Value string
}

// Claims lists what a machine claims for itself alone, without what can't be parsed.
func Claims(m *pb.Machine) []Claim {
	var out []Claim
	s := m.GetSpec()
	if s.GetUuid() != "" {
		out = append(out, Claim{"spec.uuid", "uuid=" + strings.ToLower(s.GetUuid())})
	}
	if s.GetSerial() != "" {
		out = append(out, Claim{"spec.serial", "serial=" + s.GetSerial()})
	}
	if a := s.GetBmc().GetAddress(); a != "" {
		out = append(out, Claim{"spec.bmc.address", "bmc=" + strings.ToLower(a)})
	}
	if name := m.GetMetadata().GetAnnotations()[AnnotationFormerName]; ValidName(name) {
		out = append(out, Claim{joinKey("metadata.annotations", AnnotationFormerName), "former-name=" + name})
	}
	for i, nic := range s.GetInterfaces() {
		path := joinIndex("spec.interfaces", i)
		if mac, err := machine.ParseMAC(nic.GetMac()); err == nil {
			out = append(out, Claim{path + ".mac", "mac=" + mac.String()})
		}
		if p, err := netip.ParsePrefix(nic.GetAddress()); err == nil {
			out = append(out, Claim{path + ".address", fmt.Sprintf("address=%s", p.Addr())})
		}
	}
	for _, c := range network.Claimed(s.GetNetwork()) {
		// Usually the interface that the machine boots by has the same address.
		v := fmt.Sprintf("address=%s", c.Address)
		if !slices.ContainsFunc(out, func(o Claim) bool { return o.Value == v }) {
			out = append(out, Claim{joinField("spec.network", c.Path), v})
		}
	}
	return slices.Clip(out)
}
