package inspection

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// absent is one side of a difference where a part was added or removed.
const absent = "none"

// Diff says what has changed between two inventories of a machine, from a
// (want) to b (got); either may be nil. Parts are recognised by what is theirs
// alone: disks by serial number, NICs by MAC address, memory modules by their
// slot; one that has taken another's place is said to have replaced it. What
// changes by itself is left out: times, temperatures, counters of use, kernel,
// names that the kernel gives, addresses, links.
func Diff(a, b *pb.Inventory) []*pb.Difference {
	d := differ{}
	d.machine(a, b)
	d.processors(a.GetProcessors(), b.GetProcessors())
	d.memory(a.GetMemory(), b.GetMemory())
	d.disks(a.GetDisks(), b.GetDisks())
	d.nics(a.GetNics(), b.GetNics())
	d.devices(a.GetPciDevices(), b.GetPciDevices())
	if n := len(d.out); n > maxChanges {
		d.out = append(d.out[:maxChanges-1], difference("others", absent, fmt.Sprintf("%d more changes", n-maxChanges+1)))
	}
	return d.out
}

// maxChanges bounds what one comparison finds; what is more is summed up.
const maxChanges = 256

// differ collects differences.
type differ struct{ out []*pb.Difference }

// text compares one text.
func (d *differ) text(path, a, b string) {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	if a != b {
		d.out = append(d.out, difference(path, orAbsent(a), orAbsent(b)))
	}
}

func orAbsent(s string) string {
	if s == "" {
		return absent
	}
	return s
}

// machine compares what there is one of.
func (d *differ) machine(a, b *pb.Inventory) {
	for _, p := range []struct{ path, a, b string }{
		{"system.manufacturer", a.GetSystem().GetManufacturer(), b.GetSystem().GetManufacturer()},
		{"system.product", a.GetSystem().GetProduct(), b.GetSystem().GetProduct()},
		{"system.version", a.GetSystem().GetVersion(), b.GetSystem().GetVersion()},
		{"system.serial", a.GetSystem().GetSerial(), b.GetSystem().GetSerial()},
		{"system.uuid", a.GetSystem().GetUuid(), b.GetSystem().GetUuid()},
		{"bios.vendor", a.GetBios().GetVendor(), b.GetBios().GetVendor()},
		{"bios.version", a.GetBios().GetVersion(), b.GetBios().GetVersion()},
		{"baseboard.product", a.GetBaseboard().GetProduct(), b.GetBaseboard().GetProduct()},
		{"baseboard.serial", a.GetBaseboard().GetSerial(), b.GetBaseboard().GetSerial()},
		{"chassis.serial", a.GetChassis().GetSerial(), b.GetChassis().GetSerial()},
		{"chassis.asset_tag", a.GetChassis().GetAssetTag(), b.GetChassis().GetAssetTag()},
		{"architecture", a.GetArchitecture(), b.GetArchitecture()},
		{"firmware.mode", a.GetFirmware().GetMode(), b.GetFirmware().GetMode()},
		{"firmware.secure_boot", yesNo(a.GetFirmware() != nil, a.GetFirmware().GetSecureBoot()), yesNo(b.GetFirmware() != nil, b.GetFirmware().GetSecureBoot())},
		{"firmware.setup_mode", yesNo(a.GetFirmware() != nil, a.GetFirmware().GetSetupMode()), yesNo(b.GetFirmware() != nil, b.GetFirmware().GetSetupMode())},
		{"tpm", tpmText(a.GetTpm()), tpmText(b.GetTpm())},
		{"bmc.mac", a.GetBmc().GetMac(), b.GetBmc().GetMac()},
		{"bmc.firmware_version", a.GetBmc().GetFirmwareVersion(), b.GetBmc().GetFirmwareVersion()},
	} {
		d.text(p.path, p.a, p.b)
	}
}

func yesNo(known, yes bool) string {
	switch {
	case !known:
		return ""
	case yes:
		return "on"
	}
	return "off"
}

func tpmText(t *pb.TPM) string {
	if !t.GetPresent() {
		return ""
	}
	return fmt.Sprintf("version %d", t.GetVersion())
}

func (d *differ) processors(a, b []*pb.Processor) {
	for i := range max(len(a), len(b)) {
		d.text(fmt.Sprintf("processors[%d]", i), processorText(a, i), processorText(b, i))
	}
}

func processorText(all []*pb.Processor, i int) string {
	if i >= len(all) {
		return ""
	}
	return fmt.Sprintf("%s, %d cores, %d threads", firstOf(all[i].GetModel(), all[i].GetVendor(), "a processor"), all[i].GetCores(), all[i].GetThreads())
}

// memory compares what is fitted, module by module. Without SMBIOS modules
// there is only the sum.
func (d *differ) memory(a, b *pb.Memory) {
	d.text("memory.installed_bytes", memoryText(a), memoryText(b))
	was, is := modulesBySlot(a.GetModules()), modulesBySlot(b.GetModules())
	for _, slot := range sortedKeys(was, is) {
		path := "memory.modules[" + slot + "]"
		before, after := was[slot], is[slot]
		switch {
		case before == nil || after == nil:
			d.text(path, moduleText(before), moduleText(after))
		case identity(before.GetSerial()) != identity(after.GetSerial()) && identity(before.GetSerial()) != "" && identity(after.GetSerial()) != "",
			before.GetSizeBytes() != after.GetSizeBytes(), !same(before.GetPartNumber(), after.GetPartNumber()):
			d.text(path, moduleText(before), moduleText(after))
		case before.GetSpeedMts() != after.GetSpeedMts() && before.GetSpeedMts() != 0 && after.GetSpeedMts() != 0:
			d.text(path+".speed_mts", fmt.Sprint(before.GetSpeedMts()), fmt.Sprint(after.GetSpeedMts()))
		}
	}
}

func memoryText(m *pb.Memory) string {
	if m.GetInstalledBytes() == 0 {
		return ""
	}
	return binary(m.GetInstalledBytes())
}

// modulesBySlot finds modules by their locator; two of one name, as some
// boards have them, by name and number.
func modulesBySlot(modules []*pb.MemoryModule) map[string]*pb.MemoryModule {
	out := map[string]*pb.MemoryModule{}
	for i, m := range modules {
		slot := cut(firstOf(m.GetLocator(), fmt.Sprint(i)), 64)
		if out[slot] != nil {
			slot += "#" + fmt.Sprint(i)
		}
		out[slot] = m
	}
	return out
}

func moduleText(m *pb.MemoryModule) string {
	if m == nil {
		return ""
	}
	var parts []string
	for _, s := range []string{binary(m.GetSizeBytes()), strings.TrimSpace(m.GetManufacturer() + " " + m.GetPartNumber()), prefixed("serial ", identity(m.GetSerial()))} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ", ")
}

func sortedKeys[V any](a, b map[string]V) []string {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return slices.Sorted(maps.Keys(all))
}

func (d *differ) disks(a, b []*pb.Disk) {
	pairs(a, b, func(x, y *pb.Disk) bool { return findDisk([]*pb.Disk{x}, y) != nil },
		func(x, y *pb.Disk) bool {
			return x.GetPciAddress() != "" && x.GetPciAddress() == y.GetPciAddress() && x.GetName() == y.GetName() || x.GetPciAddress() == "" && x.GetName() == y.GetName()
		},
		func(x, y *pb.Disk, same bool) {
			path := "disks[" + diskKey(x, y) + "]"
			if !same {
				d.text(path, diskText(x), diskText(y))
				return
			}
			d.disk(path, x, y)
		})
}

// diskKey names a disk in a path: by its kernel name, of the newer inventory
// where it has one there.
func diskKey(x, y *pb.Disk) string {
	return firstOf(cut(y.GetName(), 64), cut(x.GetName(), 64), cut(y.GetSerial(), 64), cut(x.GetSerial(), 64))
}

func diskText(disk *pb.Disk) string {
	if disk == nil {
		return ""
	}
	var parts []string
	for _, s := range []string{strings.TrimSpace(disk.GetModel()), sizeText(disk.GetSizeBytes()), prefixed("serial ", identity(disk.GetSerial()))} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return firstOf(strings.Join(parts, ", "), disk.GetName(), "a disk")
}

// disk compares one disk with itself.
func (d *differ) disk(path string, x, y *pb.Disk) {
	d.text(path+".model", x.GetModel(), y.GetModel())
	d.text(path+".firmware_version", x.GetFirmwareVersion(), y.GetFirmwareVersion())
	d.text(path+".size_bytes", sizeText(x.GetSizeBytes()), sizeText(y.GetSizeBytes()))
	d.text(path+".bus", x.GetBus(), y.GetBus())
	d.text(path+".type", x.GetType(), y.GetType())
	d.text(path+".read_only", yesNo(true, x.GetReadOnly()), yesNo(true, y.GetReadOnly()))
	if !x.GetSmart().GetSupported() || !y.GetSmart().GetSupported() {
		return
	}
	d.text(path+".smart.healthy", health(x), health(y))
	d.text(path+".smart.media_errors", fmt.Sprint(x.GetSmart().GetMediaErrors()), fmt.Sprint(y.GetSmart().GetMediaErrors()))
	d.text(path+".smart.reallocated_sectors", fmt.Sprint(x.GetSmart().GetReallocatedSectors()), fmt.Sprint(y.GetSmart().GetReallocatedSectors()))
}

func health(d *pb.Disk) string {
	if d.GetSmart().GetHealthy() {
		return "good"
	}
	return "failing"
}

func (d *differ) nics(a, b []*pb.NIC) {
	pairs(a, b, func(x, y *pb.NIC) bool { return identity(x.GetMac()) != "" && sameMAC(x.GetMac(), y.GetMac()) },
		func(x, y *pb.NIC) bool {
			return x.GetPciAddress() != "" && x.GetPciAddress() == y.GetPciAddress() || x.GetPciAddress() == "" && x.GetName() == y.GetName()
		},
		func(x, y *pb.NIC, same bool) {
			path := "nics[" + firstOf(cut(y.GetName(), 64), cut(x.GetName(), 64), cut(y.GetMac(), 64), cut(x.GetMac(), 64)) + "]"
			if !same {
				d.text(path, nicText(x), nicText(y))
				return
			}
			d.nic(path, x, y)
		})
}

func nicText(n *pb.NIC) string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(firstOf(n.GetMac(), n.GetName(), "a network interface") + " " + n.GetProduct())
}

// nic compares one network interface with itself. Its speed and its neighbour
// are only compared where both were known: links come and go, and a switch
// may not have spoken yet.
func (d *differ) nic(path string, x, y *pb.NIC) {
	d.text(path+".product", x.GetProduct(), y.GetProduct())
	d.text(path+".driver", x.GetDriver(), y.GetDriver())
	d.text(path+".firmware_version", x.GetFirmwareVersion(), y.GetFirmwareVersion())
	if x.GetSpeedMbps() != 0 && y.GetSpeedMbps() != 0 {
		d.text(path+".speed_mbps", fmt.Sprint(x.GetSpeedMbps()), fmt.Sprint(y.GetSpeedMbps()))
	}
	if x.GetLldp() != nil && y.GetLldp() != nil {
		d.text(path+".lldp", neighbourText(x.GetLldp()), neighbourText(y.GetLldp()))
	}
}

func neighbourText(n *pb.LLDPNeighbour) string {
	return firstOf(n.GetPortId(), n.GetPortDescription(), "a port") + " of " + firstOf(n.GetSystemName(), n.GetChassisId(), "a switch")
}

// devices compares how many PCI functions of each kind there are: their
// addresses change when another card comes or goes.
func (d *differ) devices(a, b []*pb.PCIDevice) {
	was, is := countDevices(a), countDevices(b)
	for _, id := range sortedKeys(was, is) {
		if was[id].n != is[id].n {
			name := firstOf(is[id].name, was[id].name)
			d.text("pci_devices["+cut(id, 64)+"]", deviceText(was[id].n, name), deviceText(is[id].n, name))
		}
	}
}

type deviceCount struct {
	n    int
	name string
}

func countDevices(all []*pb.PCIDevice) map[string]deviceCount {
	out := map[string]deviceCount{}
	for _, p := range all {
		id := deviceID(p)
		out[id] = deviceCount{out[id].n + 1, strings.TrimSpace(p.GetVendor() + " " + p.GetProduct())}
	}
	return out
}

func deviceText(n int, name string) string {
	if n == 0 {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("%d × %s", n, firstOf(name, "a device")))
}

// maxParts bounds how many parts of one kind are compared.
const maxParts = 512

// pairs calls each with every part of a and b: first those that are the same,
// then those that have taken another's place, then those that were removed or
// added, with nil for the side that hasn't got it.
func pairs[T any](a, b []*T, sameOne, samePlace func(x, y *T) bool, each func(x, y *T, same bool)) {
	a, b = a[:min(len(a), maxParts)], b[:min(len(b), maxParts)]
	left := slices.Clone(b)
	take := func(x *T, match func(x, y *T) bool) *T {
		for i, y := range left {
			if y != nil && match(x, y) {
				left[i] = nil
				return y
			}
		}
		return nil
	}
	var unmatched []*T
	for _, x := range a {
		if y := take(x, sameOne); y != nil {
			each(x, y, true)
		} else {
			unmatched = append(unmatched, x)
		}
	}
	for _, x := range unmatched {
		each(x, take(x, samePlace), false)
	}
	for _, y := range left {
		if y != nil {
			each(nil, y, false)
		}
	}
}
