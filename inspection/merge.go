package inspection

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// maxWarnings bounds the warnings of a merged inventory.
const maxWarnings = 64

// Merge makes one inventory of what the agent read (inBand) and what the BMC
// says (outOfBand); either may be nil. Where both speak, the agent's word
// holds: it has seen the hardware work. What it left open comes from the BMC:
// memory modules, firmware versions, serial numbers. Processors, disks and NICs that
// only the BMC knows are not added, since no operating system could use them;
// a warning names them. The differences say where the two do not even agree on
// which machine it is, as when a BMC's address is another machine's.
func Merge(inBand, outOfBand *pb.Inventory) (*pb.Inventory, []*pb.Difference) {
	if inBand == nil || outOfBand == nil {
		return cloneOf(orElse(inBand, outOfBand)), nil
	}
	out := cloneOf(inBand)
	bmc := cloneOf(outOfBand)
	dropFillers(bmc.ProtoReflect())
	blankFillers(out)
	m := merger{out: out}
	m.processors(bmc.GetProcessors())
	m.memory(bmc.GetMemory())
	m.disks(bmc.GetDisks())
	m.nics(bmc.GetNics())
	bmc.Processors, bmc.Memory, bmc.Disks, bmc.Nics = nil, nil, nil, nil
	if out.GetFirmware().GetMode() != "" {
		bmc.Firmware = nil // it was started this way
	}
	if out.Tpm != nil {
		bmc.Tpm = nil
	}
	m.warnings(bmc.GetWarnings())
	bmc.Warnings = nil
	fill(out.ProtoReflect(), bmc.ProtoReflect())
	return out, disagreements(inBand, outOfBand)
}

func cloneOf(inv *pb.Inventory) *pb.Inventory {
	if inv == nil {
		return nil
	}
	return proto.Clone(inv).(*pb.Inventory)
}

func orElse(a, b *pb.Inventory) *pb.Inventory {
	if a != nil {
		return a
	}
	return b
}

// disagreements compares who the two say that the machine is.
func disagreements(inBand, outOfBand *pb.Inventory) []*pb.Difference {
	var out []*pb.Difference
	a, b := identity(inBand.GetSystem().GetUuid()), identity(outOfBand.GetSystem().GetUuid())
	if a != "" && b != "" && !sameUUID(a, b) {
		out = append(out, difference("bmc.system.uuid", a, b))
	}
	a = identity(inBand.GetSystem().GetSerial())
	if b := identity(outOfBand.GetSystem().GetSerial()); a != "" && b != "" && !isSerial(inBand, b) && !isSerial(outOfBand, a) {
		out = append(out, difference("bmc.system.serial", a, b))
	}
	return out
}

// isSerial reports whether the machine goes by that serial number: its
// system's, or that of its chassis or board, which vendors use for one another.
func isSerial(inv *pb.Inventory, serial string) bool {
	for _, s := range serials(inv) {
		if same(s, serial) {
			return true
		}
	}
	return false
}

func serials(inv *pb.Inventory) []string {
	var out []string
	for _, s := range []string{inv.GetSystem().GetSerial(), inv.GetChassis().GetSerial(), inv.GetBaseboard().GetSerial()} {
		if s = identity(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// blankFillers takes the fillers out of the parts that the BMC can fill in.
func blankFillers(inv *pb.Inventory) {
	for _, m := range []proto.Message{inv.GetSystem(), inv.GetBaseboard(), inv.GetChassis(), inv.GetBios()} {
		if r := m.ProtoReflect(); r.IsValid() {
			dropFillers(r)
		}
	}
}

// dropFillers clears every text of m that says nothing.
func dropFillers(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				dropFillers(v.List().Get(i).Message())
			}
		case fd.IsList():
		case fd.Message() != nil:
			dropFillers(v.Message())
		case fd.Kind() == protoreflect.StringKind && said(string(fd.Name()), v.String()) == "":
			m.Clear(fd)
		}
		return true
	})
}

// said returns what a field says, empty if that is nothing.
func said(field, text string) string {
	switch field {
	case "serial", "uuid", "mac", "wwn", "asset_tag":
		return identity(text)
	}
	return fact(text)
}

// fill sets what into has not and from has. No bool is touched: its absence
// says no.
func fill(into, from protoreflect.Message) {
	from.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case !into.Has(fd):
			if fd.Kind() != protoreflect.BoolKind {
				into.Set(fd, v)
			}
		case fd.Message() != nil && !fd.IsList() && !fd.IsMap() && fd.Message().FullName() != "google.protobuf.Timestamp":
			fill(into.Mutable(fd).Message(), v.Message())
		}
		return true
	})
}

func fillFrom(into, from proto.Message) { fill(into.ProtoReflect(), from.ProtoReflect()) }

// merger fills in one inventory.
type merger struct{ out *pb.Inventory }

func (m merger) warnings(texts []string) {
	for _, w := range texts {
		if len(m.out.Warnings) < maxWarnings {
			m.out.Warnings = append(m.out.Warnings, cut(w, maxText))
		}
	}
}

func (m merger) processors(theirs []*pb.Processor) {
	if len(m.out.Processors) == 0 {
		m.out.Processors = theirs
		return
	}
	if len(theirs) > len(m.out.Processors) {
		m.warnings([]string{fmt.Sprintf("the BMC knows of %d processors, the operating system of %d", len(theirs), len(m.out.Processors))})
		return
	}
	for i, p := range theirs {
		fillFrom(m.out.Processors[i], p)
	}
}

func (m merger) memory(theirs *pb.Memory) {
	switch {
	case theirs == nil:
		return
	case m.out.Memory == nil:
		m.out.Memory = theirs
		return
	case len(m.out.Memory.GetModules()) > 0:
		for _, mod := range theirs.GetModules()[:min(len(theirs.GetModules()), maxParts)] {
			if ours := findModule(m.out.Memory.GetModules(), mod); ours != nil {
				fillFrom(ours, mod)
			}
		}
		theirs.Modules = nil
	}
	fillFrom(m.out.Memory, theirs)
}

// findModule finds a module by its serial number, or by its place if both name
// places alike and the serial numbers don't speak against it.
func findModule(modules []*pb.MemoryModule, mod *pb.MemoryModule) *pb.MemoryModule {
	serial := identity(mod.GetSerial())
	for _, m := range modules {
		if serial != "" && same(m.GetSerial(), serial) {
			return m
		}
	}
	for _, m := range modules {
		if mod.GetLocator() != "" && same(m.GetLocator(), mod.GetLocator()) && (serial == "" || identity(m.GetSerial()) == "") {
			return m
		}
	}
	return nil
}

func (m merger) disks(theirs []*pb.Disk) {
	if len(m.out.Disks) == 0 {
		m.out.Disks = theirs
		return
	}
	for _, d := range theirs[:min(len(theirs), maxParts)] {
		if ours := findDisk(m.out.Disks, d); ours != nil {
			fillFrom(ours, d)
		} else if diskID(d) != "" {
			m.warnings([]string{"the BMC knows of a disk that the operating system doesn't see: " + describeDisk(d)})
		}
	}
}

// diskID is what a disk is known by: its serial number, or else its WWN.
func diskID(d *pb.Disk) string {
	if s := identity(d.GetSerial()); s != "" {
		return strings.ToLower(s)
	}
	return strings.TrimPrefix(strings.ToLower(identity(d.GetWwn())), "0x")
}

func findDisk(disks []*pb.Disk, d *pb.Disk) *pb.Disk {
	serial, wwn := identity(d.GetSerial()), strings.TrimPrefix(identity(d.GetWwn()), "0x")
	for _, o := range disks {
		if serial != "" && same(o.GetSerial(), serial) || wwn != "" && same(strings.TrimPrefix(o.GetWwn(), "0x"), wwn) {
			return o
		}
	}
	return nil
}

// describeDisk names a disk for people.
func describeDisk(d *pb.Disk) string {
	var parts []string
	for _, s := range []string{d.GetName(), strings.TrimSpace(d.GetModel()), sizeText(d.GetSizeBytes()), prefixed("serial ", identity(d.GetSerial()))} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if len(parts) == 0 {
		return "a disk without a name"
	}
	return strings.Join(parts, ", ")
}

func sizeText(n uint64) string {
	if n == 0 {
		return ""
	}
	return decimal(n)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func (m merger) nics(theirs []*pb.NIC) {
	if len(m.out.Nics) == 0 {
		m.out.Nics = theirs
		return
	}
	for _, n := range theirs[:min(len(theirs), maxParts)] {
		if ours := findNIC(m.out.Nics, n.GetMac()); ours != nil {
			fillFrom(ours, n)
		} else if n.GetMac() != "" {
			m.warnings([]string{fmt.Sprintf("the BMC knows of a network interface that the operating system doesn't see: %s %s", n.GetMac(), n.GetProduct())})
		}
	}
}

func findNIC(nics []*pb.NIC, mac string) *pb.NIC {
	for _, n := range nics {
		if mac != "" && sameMAC(n.GetMac(), mac) {
			return n
		}
	}
	return nil
}

// sameMAC compares addresses with any separators.
func sameMAC(a, b string) bool {
	if len(a) < macDigits || len(b) < macDigits {
		return false
	}
	return strings.EqualFold(a, b) || len(a)|len(b) < 32 && strings.EqualFold(bareMAC(a), bareMAC(b))
}

// macDigits is how many an EUI-48 address has.
const macDigits = 12

var separators = strings.NewReplacer(":", "", "-", "", ".", "")

func bareMAC(s string) string { return separators.Replace(s) }
