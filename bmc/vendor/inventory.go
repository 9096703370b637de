package vendor

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/bmc-toolbox/common"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// maxParts bounds the parts of a kind that a BMC may list.
const maxParts = 1024

// device asks for everything that the provider knows.
func (d *Driver) device(ctx context.Context) (*common.Device, error) {
	if d.name == AMT {
		return nil, bmc.Unsupported(d.name, "inventory")
	}
	got, err := get(ctx, d, "inventory", d.client.Inventory)
	if err == nil && (got == nil || got.Vendor == "" && got.Serial == "" && len(got.CPUs) == 0) {
		err = d.unsupported("inventory", errElsewhere)
	}
	return got, err
}

// errElsewhere is about the Redfish wrapper's list of paths.
var errElsewhere = errors.New("the library looks for machines at paths that this BMC doesn't have")

// Identity is taken from the inventory: the providers have nothing smaller.
func (d *Driver) Identity(ctx context.Context) (bmc.Identity, error) {
	got, err := d.device(ctx)
	if err != nil {
		return bmc.Identity{}, err
	}
	id := bmc.Identity{Serial: known(got.Serial), Manufacturer: known(got.Vendor), Product: known(got.Model)}
	for _, n := range nics(got) {
		if mac, err := machine.ParseMAC(n.Mac); err == nil && !slices.Contains(id.MACs, mac) {
			id.MACs = append(id.MACs, mac)
		}
	}
	id.Power, err = d.PowerState(ctx)
	return id, err
}

// Inventory returns the parts that the provider knows.
func (d *Driver) Inventory(ctx context.Context) (*pb.Inventory, error) {
	got, err := d.device(ctx)
	if err != nil {
		return nil, err
	}
	inv := &pb.Inventory{
		System: &pb.System{Manufacturer: known(got.Vendor), Product: known(got.Model), Serial: known(got.Serial)},
		Memory: &pb.Memory{}, Bmc: &pb.BMCInfo{Present: true}, Nics: nics(got),
	}
	if got.BIOS != nil {
		inv.Bios = &pb.BIOS{Vendor: known(got.BIOS.Vendor), Version: installed(got.BIOS.Firmware)}
	}
	if got.BMC != nil {
		inv.Bmc.FirmwareVersion = installed(got.BMC.Firmware)
	}
	if b := got.Mainboard; b != nil {
		inv.Baseboard = &pb.Baseboard{Manufacturer: known(b.Vendor), Product: known(b.Model), Serial: known(b.Serial)}
	}
	for _, c := range bounded(got.CPUs) {
		inv.Processors = append(inv.Processors, &pb.Processor{
			Id: uint32(len(inv.Processors)), Vendor: known(c.Vendor), Model: known(c.Model),
			Cores: count(c.Cores), Threads: count(c.Threads), MaxMhz: uint32(max(0, min(c.ClockSpeedHz/1e6, 1e6))),
		})
	}
	for _, m := range bounded(got.Memory) {
		if m.SizeBytes <= 0 {
			continue
		}
		inv.Memory.InstalledBytes += uint64(m.SizeBytes)
		inv.Memory.Modules = append(inv.Memory.Modules, &pb.MemoryModule{
			Locator: m.Slot, SizeBytes: uint64(m.SizeBytes), Type: m.Type, Manufacturer: known(m.Vendor), Serial: known(m.Serial), PartNumber: known(m.PartNumber),
		})
	}
	for _, v := range bounded(got.Drives) {
		inv.Disks = append(inv.Disks, &pb.Disk{
			Name: v.ID, Model: known(v.Model), Vendor: known(v.Vendor), Serial: known(v.Serial), Wwn: known(v.WWN),
			FirmwareVersion: installed(v.Firmware), SizeBytes: uint64(max(0, v.CapacityBytes)), Bus: strings.ToLower(v.Protocol),
		})
	}
	return inv, nil
}

// nics are the machine's own network interfaces.
func nics(got *common.Device) (out []*pb.NIC) {
	for _, n := range bounded(got.NICs) {
		for _, p := range bounded(n.NICPorts) {
			mac, err := machine.ParseMAC(p.MacAddress)
			if err != nil || mac.IsZero() {
				continue
			}
			out = append(out, &pb.NIC{
				Name: p.ID, Mac: mac.String(), Vendor: known(n.Vendor), Product: known(n.Model), FirmwareVersion: installed(n.Firmware),
				SpeedMbps: uint32(max(0, min(p.SpeedBits/1e6, 1e6))), Link: strings.EqualFold(p.LinkStatus, "up") || strings.EqualFold(p.LinkStatus, "linkup"),
			})
		}
	}
	return out
}

// bounded returns what is there of a list, at most maxParts.
func bounded[T any](all []*T) []*T {
	all = slices.DeleteFunc(slices.Clone(all), func(x *T) bool { return x == nil })
	return all[:min(len(all), maxParts)]
}

func installed(f *common.Firmware) string {
	if f == nil {
		return ""
	}
	return known(f.Installed)
}

func count(n int) uint32 { return uint32(max(0, min(n, 1<<16))) }

// known returns s without blanks, or nothing where it is a placeholder.
func known(s string) string {
	s = strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "to be filled by o.e.m.", "default string", "not specified", "none", "n/a", "unknown", "na", "null":
		return ""
	}
	return s
}

// ManagerInfo is the BMC's firmware version, where the provider's inventory has it.
func (d *Driver) ManagerInfo(ctx context.Context) (bmc.ManagerInfo, error) {
	got, err := d.device(ctx)
	if err != nil {
		return bmc.ManagerInfo{}, err
	}
	out := bmc.ManagerInfo{Protocols: []string{d.name}}
	if got.BMC != nil {
		out.Model, out.FirmwareVersion = known(got.BMC.Model), installed(got.BMC.Firmware)
	}
	return out, nil
}
