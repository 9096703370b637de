package inspection

import (
	"fmt"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// cabling compares the switch port at the other end of an interface, where
// that is given, with what LLDP told. An interface without one is only what
// the machine is recognised by.
func (c *checker) cabling(path string, want *pb.Interface) {
	if want.GetSwitch() == "" && want.GetSwitchPort() == "" {
		return
	}
	nic := findNIC(c.inv.GetNics(), want.GetMac())
	if nic == nil {
		if c.inv != nil {
			c.add(path+".mac", want.GetMac(), macList(c.inv.GetNics()))
		}
		return
	}
	n := nic.GetLldp()
	if n == nil {
		c.add(path+".switch_port", portText(want), silence(nic))
		return
	}
	if s := want.GetSwitch(); s != "" && !isSwitch(n, s) {
		c.add(path+".switch", s, firstOf(n.GetSystemName(), n.GetChassisId()))
	}
	if p := want.GetSwitchPort(); p != "" && !same(p, n.GetPortId()) && !same(p, n.GetPortDescription()) {
		c.add(path+".switch_port", p, bothOf(n.GetPortId(), n.GetPortDescription()))
	}
}

// Listening reports whether it is too early to check a machine's cabling: the
// agent has not yet heard the neighbours of interfaces for which one is expected.
func Listening(spec *pb.MachineSpec, inv *pb.Inventory) bool {
	if inv.GetNeighboursTime() != nil {
		return false
	}
	for _, want := range spec.GetInterfaces() {
		if want.GetSwitch() == "" && want.GetSwitchPort() == "" {
			continue
		}
		if nic := findNIC(inv.GetNics(), want.GetMac()); nic != nil && nic.GetLldp() == nil {
			return true
		}
	}
	return false
}

// isSwitch compares what a person calls a switch with what it calls itself: by
// its name, with or without the domain, or by its chassis id.
func isSwitch(n *pb.LLDPNeighbour, name string) bool {
	host, _, _ := strings.Cut(n.GetSystemName(), ".")
	return same(n.GetSystemName(), name) || !strings.Contains(name, ".") && same(host, name) ||
		same(n.GetChassisId(), name) || len(bareMAC(name)) == macDigits && sameMAC(n.GetChassisId(), name)
}

func portText(want *pb.Interface) string {
	switch {
	case want.GetSwitch() == "":
		return want.GetSwitchPort()
	case want.GetSwitchPort() == "":
		return "a port of " + want.GetSwitch()
	}
	return want.GetSwitchPort() + " of " + want.GetSwitch()
}

// silence says why nothing is known of the other end.
func silence(nic *pb.NIC) string {
	if !nic.GetLink() {
		return "no link"
	}
	return "a neighbour that was not heard by LLDP"
}

func firstOf(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

// bothOf writes a port by its id, and its description where that is another.
func bothOf(id, description string) string {
	if description == "" || same(id, description) || id == "" {
		return firstOf(id, description)
	}
	return fmt.Sprintf("%s (%s)", id, description)
}

// macList is what a machine has instead of an interface that is missing.
func macList(nics []*pb.NIC) string {
	var macs []string
	for _, n := range nics {
		if n.GetMac() != "" {
			macs = append(macs, n.GetMac())
		}
	}
	switch len(macs) {
	case 0:
		return "no network interfaces"
	case 1, 2, 3, 4:
		return "only " + strings.Join(macs, ", ")
	}
	return "only " + strings.Join(macs[:4], ", ") + fmt.Sprintf(" and %d more", len(macs)-4)
}
