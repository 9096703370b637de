package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// defaultMIIMon is how often carrier is looked at: the kernel's own choice is
// never, with which a bond keeps sending to a dead port.
const defaultMIIMon = 100 * time.Millisecond

// reader makes a Config and collects what is wrong.
type reader struct {
	*Config
	spec     *pb.MachineNetwork
	byName   map[string]*Link
	problems []Problem
}

func (r *reader) fail(path, format string, args ...any) {
	r.problems = append(r.problems, Problem{path, fmt.Sprintf(format, args...)})
}

func at(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Read understands a declaration. Where there are problems the Config is nil.
func Read(spec *pb.MachineNetwork) (*Config, []Problem) {
	r := &reader{Config: &Config{}, spec: spec, byName: map[string]*Link{}}
	r.Nameservers = r.addrs("nameservers", spec.GetNameservers())
	r.Search = r.domains("search_domains", spec.GetSearchDomains())
	for i, l := range spec.GetLinks() {
		r.readLink(at("links", i), l)
	}
	for i, l := range spec.GetLinks() {
		r.connect(r.Links[i], l)
	}
	r.readBGP(spec.GetBgp())
	if len(r.problems) == 0 {
		r.sort()
	}
	if len(r.problems) == 0 {
		r.check()
	}
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return r.Config, nil
}

func (r *reader) readLink(path string, s *pb.NetworkLink) {
	l := &Link{
		Name: s.GetName(), Path: path, NIC: s.GetNic(), MTU: int(s.GetMtu()), DHCP4: s.GetDhcp4(), DHCP6: s.GetDhcp6(), AcceptRA: s.AcceptRa,
		Metric: s.GetMetric(), Optional: s.GetOptional(),
	}
	r.Links = append(r.Links, l)
	switch was, taken := r.byName[l.Name]; {
	case taken:
		r.fail(path+".name", "%s is given twice: %s has it too", l.Name, was.Path)
	case l.Name == "":
		r.fail(path+".name", "missing")
	default:
		r.byName[l.Name] = l
	}
	r.readKind(l, s)
	for i, text := range s.GetAddresses() {
		if p, err := netip.ParsePrefix(text); err != nil || p.Addr().Zone() != "" {
			r.fail(at(path+".addresses", i), "%q: not an address with a prefix length such as 10.77.0.31/24", text)
		} else {
			l.Addresses = append(l.Addresses, p)
		}
	}
	l.Gateway4 = r.gateway(path+".gateway4", s.GetGateway4(), netip.Addr.Is4, "an IPv4 address such as 10.77.0.1")
	l.Gateway6 = r.gateway(path+".gateway6", s.GetGateway6(), netip.Addr.Is6, "an IPv6 address such as fe80::1")
	for i, route := range s.GetRoutes() {
		r.readRoute(at(path+".routes", i), l, route)
	}
	l.Nameservers = r.addrs(path+".nameservers", s.GetNameservers())
	l.Search = r.domains(path+".search_domains", s.GetSearchDomains())
}

// readKind finds out what the link is.
func (r *reader) readKind(l *Link, s *pb.NetworkLink) {
	mac, err := machine.ParseMAC(s.GetMac())
	if err == nil {
		l.MAC = mac
	} else if s.GetMac() != "" {
		r.fail(l.Path+".mac", "%v", err)
	}
	var kinds []Kind
	add := func(is bool, kind Kind) {
		if is {
			kinds = append(kinds, kind)
		}
	}
	add(l.Name == Loopback, Lo)
	add(s.GetNic() != "" || s.GetMac() != "" && s.Bond == nil && s.Bridge == nil, Port)
	add(s.Bond != nil, Bonded)
	add(s.Vlan != nil, Tagged)
	add(s.Bridge != nil, Bridge)
	switch {
	case len(kinds) == 0:
		r.fail(l.Path, "what is it? give one of mac, nic, bond, vlan and bridge")
	case len(kinds) > 1:
		r.fail(l.Path, "is a %s and a %s: only one of them", kinds[0], kinds[1])
	case s.GetNic() != "" && s.GetMac() != "":
		r.fail(l.Path+".nic", "given together with mac: only one of them picks the port")
	default:
		l.Kind = kinds[0]
	}
}

func (r *reader) addrs(path string, texts []string) []netip.Addr {
	var out []netip.Addr
	for i, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			r.fail(at(path, i), "%q: not an address such as 10.77.0.2", text)
			continue
		}
		out = append(out, a)
	}
	return out
}

// domains accepts what is one word of resolv.conf and of every renderer's form.
func (r *reader) domains(path string, names []string) []string {
	for i, name := range names {
		if !isDomain(name) {
			r.fail(at(path, i), "%q: not a domain name", name)
		}
	}
	return slices.Clone(names)
}

func isDomain(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return false
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func (r *reader) gateway(path, text string, family func(netip.Addr) bool, want string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !family(a) || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		r.fail(path, "%q: not %s", text, want)
		return netip.Addr{}
	}
	return a
}

func (r *reader) readRoute(path string, l *Link, s *pb.NetworkRoute) {
	route := Route{Metric: s.GetMetric(), Table: s.GetTable(), OnLink: s.GetOnLink()}
	if text := s.GetVia(); text != "" {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			r.fail(path+".via", "%q: not an address such as 10.77.0.1", text)
			return
		}
		route.Via = a
	}
	if s.GetTo() == "default" {
		if !route.Via.IsValid() {
			r.fail(path+".via", "missing: it says whether `default` is IPv4's or IPv6's")
			return
		}
		route.To = defaultTo(route.Via)
		l.Routes = append(l.Routes, route)
		return
	}
	to, err := netip.ParsePrefix(s.GetTo())
	switch {
	case err != nil:
		r.fail(path+".to", "%q: not a subnet such as 10.0.0.0/8, nor `default`", s.GetTo())
	case to != to.Masked():
		r.fail(path+".to", "%s has bits after its prefix: write %s", to, to.Masked())
	case route.Via.IsValid() && route.Via.Is4() != to.Addr().Is4():
		r.fail(path+".via", "%s is of another family than %s", route.Via, to)
	default:
		route.To = to
		l.Routes = append(l.Routes, route)
	}
}

// connect finds the links that a link lies on.
func (r *reader) connect(l *Link, s *pb.NetworkLink) {
	switch l.Kind {
	case Bonded:
		l.Bond = r.readBond(l.Path+".bond", s.Bond)
		l.Bond.Ports = r.ports(l, l.Path+".bond.ports", s.Bond.GetPorts())
	case Bridge:
		l.Spanning = &Spanning{STP: s.Bridge.GetStp(), Priority: int(s.Bridge.GetPriority()), ForwardDelay: r.duration(l.Path+".bridge.forward_delay", s.Bridge.GetForwardDelay())}
		l.Spanning.Ports = r.ports(l, l.Path+".bridge.ports", s.Bridge.GetPorts())
	case Tagged:
		on := r.find(l.Path+".vlan.link", s.Vlan.GetLink())
		l.VLAN = &VLAN{Link: on, ID: int(s.Vlan.GetId())}
	}
}

func (r *reader) find(path, name string) *Link {
	l := r.byName[name]
	if l == nil {
		r.fail(path, "%q is no link: there %s", name, r.thereAre())
	}
	return l
}

func (r *reader) thereAre() string {
	var names []string
	for _, l := range r.Links {
		names = append(names, l.Name)
	}
	if len(names) == 1 {
		return "is " + names[0] + " only"
	}
	return "are " + strings.Join(names, ", ")
}

func (r *reader) ports(master *Link, path string, names []string) []*Link {
	var out []*Link
	for i, name := range names {
		l := r.find(at(path, i), name)
		switch {
		case l == nil:
		case l.Master != nil:
			r.fail(at(path, i), "%s is a port of %s already", name, l.Master.Name)
		case l.Kind == Lo || master.Kind == Bonded && l.Kind != Port || l.Kind == Bridge:
			r.fail(at(path, i), "%s is a %s, which can't be a port of a %s", name, l.Kind, master.Kind)
		default:
			l.Master = master
			out = append(out, l)
		}
	}
	return out
}

func (r *reader) readBond(path string, s *pb.NetworkBond) *Bond {
	b := &Bond{
		Mode: s.GetMode(), MIIMon: r.duration(path+".miimon", s.GetMiimon()), LACPRate: s.GetLacpRate(), HashPolicy: s.GetTransmitHashPolicy(),
		UpDelay: r.duration(path+".up_delay", s.GetUpDelay()), DownDelay: r.duration(path+".down_delay", s.GetDownDelay()),
		ADSelect: s.GetAdSelect(), MinLinks: int(s.GetMinLinks()), Primary: s.GetPrimary(), PrimaryReselect: s.GetPrimaryReselect(),
		FailOver: s.GetFailOverMac(), ARPInterval: r.duration(path+".arp_interval", s.GetArpInterval()), ARPTargets: r.addrs(path+".arp_targets", s.GetArpTargets()),
	}
	if b.MIIMon == 0 && b.ARPInterval == 0 {
		b.MIIMon = defaultMIIMon
	}
	return b
}

// maxDelay bounds every duration of a bond or bridge.
const maxDelay = 10 * time.Minute

// duration reads whole milliseconds, which is what the kernel counts in.
func (r *reader) duration(path, text string) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.fail(path, "%q: not a duration such as 100ms", text)
	case d < time.Millisecond || d > maxDelay || d%time.Millisecond != 0:
		r.fail(path, "%q: want whole milliseconds, up to %s", text, maxDelay)
	default:
		return d
	}
	return 0
}

// sort puts links behind those that they lie on, and finds cycles.
func (r *reader) sort() {
	const (
		open = iota + 1
		done
	)
	state := map[*Link]int{}
	var out []*Link
	var visit func(l *Link) bool
	visit = func(l *Link) bool {
		if state[l] != 0 {
			return state[l] == done
		}
		state[l] = open
		for _, on := range l.on() {
			if !visit(on) {
				r.fail(l.Path, "lies on itself, by way of %s", on.Name)
				return true // one message is enough
			}
		}
		state[l] = done
		out = append(out, l)
		return true
	}
	for _, l := range r.Links {
		visit(l)
	}
	r.Links = out
}

// on returns the links that l lies on.
func (l *Link) on() []*Link {
	if l.VLAN != nil {
		return []*Link{l.VLAN.Link}
	}
	return l.Ports()
}
