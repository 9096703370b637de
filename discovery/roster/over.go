package roster

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Over returns the machine as it is after an import: what the list says is set
// in current, the rest stays as somebody has made it. Interfaces are the same
// if their MAC addresses are; those that the list has not stay. Importing a
// list again so changes nothing. A nil current is a new machine.
func (m Machine) Over(current *pb.Machine) Machine {
	if current == nil {
		return m
	}
	ours := proto.Clone(m.Machine).(*pb.Machine)
	out := Machine{Machine: proto.Clone(current).(*pb.Machine), file: m.file, at: map[string]place{}}
	out.Status, out.Metadata.ResourceVersion = nil, 0
	if out.Spec == nil {
		out.Spec = &pb.MachineSpec{}
	}
	nics := ours.Spec.Interfaces
	ours.Spec.Interfaces = nil
	if len(ours.Spec.KernelArgs) > 0 {
		out.Spec.KernelArgs = nil
	}
	proto.Merge(out.Machine, ours)
	moved := map[string]string{}
	for i, nic := range nics {
		at := out.interfaceOf(nic.GetMac())
		if at < 0 {
			at = len(out.Spec.Interfaces)
			out.Spec.Interfaces = append(out.Spec.Interfaces, nic)
		} else {
			nic.Mac = out.Spec.Interfaces[at].GetMac() // as somebody has written it
			proto.Merge(out.Spec.Interfaces[at], nic)
		}
		moved[fmt.Sprintf("spec.interfaces[%d]", i)] = fmt.Sprintf("spec.interfaces[%d]", at)
	}
	for path, p := range m.at {
		if end := strings.IndexByte(path, ']'); strings.HasPrefix(path, "spec.interfaces[") && end > 0 {
			path = moved[path[:end+1]] + path[end+1:]
		}
		out.at[path] = p
	}
	return out
}

// interfaceOf returns the place of the interface with that MAC address; -1 if
// there is none.
func (m Machine) interfaceOf(mac string) int {
	for i, nic := range m.Spec.GetInterfaces() {
		if strings.EqualFold(strings.ReplaceAll(nic.GetMac(), "-", ":"), mac) {
			return i
		}
	}
	return -1
}
