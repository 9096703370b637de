package engine

import (
	"net/netip"
	"strings"

	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/network"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// bootMedium is the boot method of machines that boot the agent from a medium.
const bootMedium = "virtual-media"

// machineValue returns what the boot services need of a Machine. What doesn't
// parse is left out: the API refuses it before it is stored.
func machineValue(m *pb.Machine) machine.Machine {
	v := machine.Machine{
		Name:       machine.Name(m.GetMetadata().GetName()),
		UUID:       machine.UUID(strings.ToLower(m.GetSpec().GetUuid())),
		Serial:     m.GetSpec().GetSerial(),
		Hostname:   m.GetSpec().GetHostname(),
		Console:    m.GetSpec().GetConsole(),
		KernelArgs: m.GetSpec().GetKernelArgs(),
		Instance:   m.GetStatus().GetInstance(),
		Labels:     m.GetMetadata().GetLabels(),
		Boot:       bootTarget(m),
		Medium:     m.GetSpec().GetBootMethod() == bootMedium,
	}
	if v.Hostname == "" {
		v.Hostname = m.GetMetadata().GetName()
	}
	for _, a := range network.Claimed(m.GetSpec().GetNetwork()) {
		v.Addresses = append(v.Addresses, a.Address)
	}
	for _, i := range m.GetSpec().GetInterfaces() {
		if nic, err := interfaceValue(i); err == nil {
			v.Interfaces = append(v.Interfaces, nic)
		}
	}
	return v
}

// bootTarget returns what the machine boots next. A machine that the lifecycle
// has not looked at yet is new: it boots the agent to be inspected.
func bootTarget(m *pb.Machine) machine.BootTarget {
	if m.GetSpec().GetMaintenance() && m.GetStatus().GetWorkflow() == "" {
		return machine.BootDisk
	}
	switch m.GetStatus().GetNextBoot() {
	case pb.NextBoot_AGENT:
		return machine.BootAgent
	case pb.NextBoot_NEXT_BOOT_UNSPECIFIED:
		if m.GetStatus().GetState() == pb.MachineState_MACHINE_STATE_UNSPECIFIED {
			return machine.BootAgent
		}
	}
	return machine.BootDisk
}

func interfaceValue(i *pb.Interface) (machine.Interface, error) {
	mac, err := machine.ParseMAC(i.GetMac())
	if err != nil {
		return machine.Interface{}, err
	}
	v := machine.Interface{MAC: mac, DisableDHCP: i.GetDisableDhcp(), DisableNetboot: i.GetDisableNetboot(), Nameservers: addrs(i.GetNameservers()), VLAN: int(i.GetVlan())}
	if p, err := netip.ParsePrefix(i.GetAddress()); err == nil {
		v.Address = p
	}
	if a, err := netip.ParseAddr(i.GetGateway()); err == nil {
		v.Gateway = a
	}
	return v, nil
}

// addrs returns the addresses that parse.
func addrs(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}
