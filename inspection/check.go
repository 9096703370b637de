package inspection

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// maxDifferences bounds what one check finds; what is more is summed up.
const maxDifferences = 64

// unknown is what a difference has where the inventory says nothing.
const unknown = "not known"

// Check compares a machine's hardware with what is expected of it: who it is
// (spec.uuid, spec.serial), its bill of materials (spec.expect, which wins over
// the pool's field by field), and its cabling (spec.interfaces). inv is best
// the merged inventory; what isn't in it is a difference, not passed over, but
// for uuid and serial, which some firmware doesn't have. pool may be nil.
func Check(spec *pb.MachineSpec, pool *pb.Pool, inv *pb.Inventory) []*pb.Difference {
	c := checker{inv: inv}
	c.identity(spec)
	c.materials(Expected(spec.GetExpect(), pool.GetSpec().GetExpect()))
	for i, nic := range spec.GetInterfaces() {
		c.cabling(fmt.Sprintf("interfaces[%d]", i), nic)
	}
	if n := len(c.out); n > maxDifferences {
		c.out = append(c.out[:maxDifferences-1], difference("others", "no differences", fmt.Sprintf("%d more", n-maxDifferences+1)))
	}
	return c.out
}

// Expected merges what is expected of a machine with what is expected of every
// machine in its pool; either may be nil. A list or map of the machine's
// replaces the pool's. allow_other_disks goes with the list of disks.
func Expected(ours, pools *pb.Expectation) *pb.Expectation {
	if ours == nil {
		return pools
	}
	out := proto.Clone(ours).(*pb.Expectation)
	if pools != nil {
		fill(out.ProtoReflect(), proto.Clone(pools).ProtoReflect())
		if len(ours.GetDisks()) == 0 {
			out.AllowOtherDisks = ours.GetAllowOtherDisks() || pools.GetAllowOtherDisks()
		}
	}
	return out
}

// checker collects differences.
type checker struct {
	inv *pb.Inventory
	out []*pb.Difference
}

func (c *checker) add(path, want, got string) {
	c.out = append(c.out, difference(path, want, cmp.Or(got, unknown)))
}

// identity looks whether it is the machine that a person described.
func (c *checker) identity(spec *pb.MachineSpec) {
	if got := identity(c.inv.GetSystem().GetUuid()); spec.GetUuid() != "" && got != "" && !sameUUID(spec.GetUuid(), got) {
		c.add("uuid", spec.GetUuid(), got)
	}
	if known := serials(c.inv); identity(spec.GetSerial()) != "" && len(known) > 0 && !isSerial(c.inv, spec.GetSerial()) {
		c.add("serial", spec.GetSerial(), known[0])
	}
}

// materials compares the hardware with a bill of materials.
func (c *checker) materials(e *pb.Expectation) {
	if e == nil {
		return
	}
	c.text("manufacturer", e.GetManufacturer(), c.inv.GetSystem().GetManufacturer())
	c.text("product", e.GetProduct(), c.inv.GetSystem().GetProduct())
	c.text("bios_version", e.GetBiosVersion(), c.inv.GetBios().GetVersion())
	c.text("bmc_firmware_version", e.GetBmcFirmwareVersion(), c.inv.GetBmc().GetFirmwareVersion())
	c.processors(e)
	c.memory(e.GetMemoryBytes())
	c.disks(e)
	c.number("nics", e.GetNics(), len(c.inv.GetNics()))
	c.devices(e.GetPciDevices())
	c.firmware(e)
}

func (c *checker) text(path, want, got string) {
	if want != "" && !same(want, got) {
		c.add(path, want, got)
	}
}

func (c *checker) number(path string, want uint32, got int) {
	if want != 0 && int64(want) != int64(got) {
		c.add(path, fmt.Sprint(want), fmt.Sprint(got))
	}
}

func (c *checker) processors(e *pb.Expectation) {
	all := c.inv.GetProcessors()
	c.number("processors", e.GetProcessors(), len(all))
	if want := e.GetProcessorModel(); want != "" {
		if len(all) == 0 {
			c.add("processor_model", want, "")
		}
		seen := map[string]bool{}
		for _, p := range all {
			if !contains(p.GetModel(), want) && !seen[p.GetModel()] {
				seen[p.GetModel()] = true
				c.add("processor_model", want, p.GetModel())
			}
		}
	}
	cores := 0
	for _, p := range all {
		cores += int(p.GetCores())
	}
	c.number("cores", e.GetCores(), cores)
}

// reserved is how much of the memory, at most, the firmware and the kernel
// keep: what is usable may be smaller by this part. 384 MiB of 2 GiB were seen.
const reserved = 4

// memory compares what is installed. Where SMBIOS doesn't say that (virtual
// machines, mostly), what the kernel can use has to come near it.
func (c *checker) memory(want uint64) {
	m := c.inv.GetMemory()
	installed, usable := m.GetInstalledBytes(), m.GetUsableBytes()
	switch {
	case want == 0:
	case installed == want:
	case installed != 0:
		c.add("memory_bytes", binary(want), binary(installed))
	case usable > want || usable < want-want/reserved:
		got := ""
		if usable != 0 {
			got = binary(usable) + " usable"
		}
		c.add("memory_bytes", binary(want), got)
	}
}

// devices counts PCI functions by vendor and device.
func (c *checker) devices(want map[string]uint32) {
	have := map[string]int{}
	for _, d := range c.inv.GetPciDevices() {
		have[deviceID(d)]++
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if got := have[strings.ToLower(id)]; int64(got) != int64(want[id]) {
			c.add("pci_devices["+id+"]", fmt.Sprint(want[id]), fmt.Sprint(got))
		}
	}
}

func deviceID(d *pb.PCIDevice) string {
	return strings.ToLower(d.GetVendorId() + ":" + d.GetDeviceId())
}

func (c *checker) firmware(e *pb.Expectation) {
	if want := e.GetTpm(); want != 0 && (!c.inv.GetTpm().GetPresent() || c.inv.GetTpm().GetVersion() != want) {
		got := "none"
		if t := c.inv.GetTpm(); t.GetPresent() {
			got = fmt.Sprintf("version %d", t.GetVersion())
		}
		c.add("tpm", fmt.Sprintf("version %d", want), got)
	}
	c.text("firmware_mode", e.GetFirmwareMode(), c.inv.GetFirmware().GetMode())
	if want := e.GetSecureBoot(); want != "" {
		got := "off"
		switch {
		case c.inv.GetFirmware() == nil:
			got = ""
		case c.inv.GetFirmware().GetSecureBoot():
			got = "on"
		}
		c.text("secure_boot", want, got)
	}
}

// contains reports whether part is in text, in any case.
func contains(text, part string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(strings.TrimSpace(part)))
}
