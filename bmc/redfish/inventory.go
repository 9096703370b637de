package redfish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"

	"github.com/bedplate/bedplate/bmc"
)

// maxWarnings bounds Inventory.Warnings.
const maxWarnings = 32

type memorySummary struct {
	Status status
	GiB    float64 `json:"TotalSystemMemoryGiB"`
}

type trustedModule struct {
	InterfaceType   string
	FirmwareVersion string
	Status          status
}

// Inventory reads the whole machine. What can't be read is a warning, but for
// the system itself.
func (d *Driver) Inventory(ctx context.Context) (*pb.Inventory, error) {
	ctx = withBudget(ctx)
	s, err := d.system(ctx)
	if err != nil {
		return nil, err
	}
	inv := &pb.Inventory{
		System: &pb.System{
			Manufacturer: known(s.Manufacturer),
			Product:      known(s.Model),
			Serial:       s.serial(),
			Uuid:         strings.ToLower(known(s.UUID)),
			Sku:          known(s.SKU),
		},
		Bios:   &pb.BIOS{Version: known(s.BiosVersion)},
		Memory: &pb.Memory{InstalledBytes: gib(s.MemorySummary.GiB)},
		Tpm:    tpmOf(s.TrustedModules),
	}
	warn := func(what string) func(error) {
		return func(err error) {
			if err != nil && !errors.Is(err, bmc.ErrUnsupported) && len(inv.Warnings) < maxWarnings {
				inv.Warnings = append(inv.Warnings, shorten(fmt.Sprintf("%s: %v", what, err)))
			}
		}
	}
	inv.Processors, err = d.processors(ctx, s, warn("processors"))
	warn("processors")(err)
	warn("memory")(d.memory(ctx, s, inv.Memory, warn("memory")))
	inv.Disks, err = d.disks(ctx, s, warn("disks"))
	warn("disks")(err)
	inv.Nics, err = d.nics(ctx, s, warn("network interfaces"))
	warn("network interfaces")(err)
	inv.PciDevices = d.pciDevices(ctx, s, warn("PCI devices"))
	inv.Chassis, inv.Baseboard = d.enclosure(ctx, warn("chassis"))
	inv.Bmc, err = d.bmcInfo(ctx)
	warn("management controller")(err)
	inv.Firmware = d.firmwareInfo(ctx, s, warn("Secure Boot"))
	return inv, ctx.Err()
}

func gib(n float64) uint64 {
	if n <= 0 || n > 1<<24 {
		return 0
	}
	return uint64(n * (1 << 30))
}

// present reports whether something is fitted.
func (s status) present() bool { return s.State != "Absent" }

func (d *Driver) processors(ctx context.Context, s *system, failed func(error)) ([]*pb.Processor, error) {
	type processor struct {
		Status          status
		ProcessorType   string
		Manufacturer    string
		Model           string
		TotalCores      uint32
		TotalThreads    uint32
		MaxSpeedMHz     float64
		InstructionSet  string
		ProcessorMember string `json:"Id"`
	}
	all, err := collect[processor](ctx, d, s.Processors.Path, failed)
	var out []*pb.Processor
	for _, p := range all {
		if !p.Status.present() || p.ProcessorType != "" && p.ProcessorType != "CPU" {
			continue
		}
		out = append(out, &pb.Processor{
			Id: uint32(len(out)), Vendor: known(p.Manufacturer), Model: known(p.Model),
			Cores: p.TotalCores, Threads: p.TotalThreads, MaxMhz: uint32(max(0, min(p.MaxSpeedMHz, 1e6))),
		})
	}
	return out, err
}

func (d *Driver) memory(ctx context.Context, s *system, into *pb.Memory, failed func(error)) error {
	type dimm struct {
		Status              status
		ID                  string `json:"Id"`
		DeviceLocator       string
		CapacityMiB         float64
		OperatingSpeedMhz   uint32
		MemoryDeviceType    string
		Manufacturer        string
		SerialNumber        string
		PartNumber          string
		MemoryLocationOther string
	}
	all, err := collect[dimm](ctx, d, s.Memory.Path, failed)
	var sum uint64
	for _, m := range all {
		size := gib(m.CapacityMiB / 1024)
		if !m.Status.present() || size == 0 {
			continue
		}
		locator := m.DeviceLocator
		if locator == "" {
			locator = m.ID
		}
		sum += size
		into.Modules = append(into.Modules, &pb.MemoryModule{
			Locator: locator, SizeBytes: size, SpeedMts: m.OperatingSpeedMhz, Type: m.MemoryDeviceType,
			Manufacturer: known(m.Manufacturer), Serial: known(m.SerialNumber), PartNumber: known(m.PartNumber),
		})
	}
	if sum > 0 {
		into.InstalledBytes = sum // the sum of the modules is exact, TotalSystemMemoryGiB is rounded
	}
	return err
}

// tpmOf returns the first trusted module that is a TPM and is fitted.
func tpmOf(modules []trustedModule) *pb.TPM {
	for _, m := range modules {
		version, isTPM := map[string]uint32{"TPM1_2": 1, "TPM2_0": 2}[m.InterfaceType]
		if isTPM && m.Status.present() {
			return &pb.TPM{Present: true, Version: version}
		}
	}
	return &pb.TPM{}
}

// pciDevices reads the functions of the devices that the system links.
func (d *Driver) pciDevices(ctx context.Context, s *system, failed func(error)) []*pb.PCIDevice {
	type function struct {
		VendorID  string `json:"VendorId"`
		DeviceID  string `json:"DeviceId"`
		ClassCode string
	}
	var out []*pb.PCIDevice
	for _, path := range pathsOf(s.PCIeDevices) {
		var device struct {
			Manufacturer  string
			Model         string
			Name          string
			Status        status
			PCIeFunctions link
		}
		if _, err := d.get(ctx, path, &device); err != nil {
			failed(err)
			continue
		}
		product := known(device.Model)
		if product == "" {
			product = known(device.Name)
		}
		functions, err := collect[function](ctx, d, device.PCIeFunctions.Path, failed)
		if err != nil {
			failed(err)
		}
		for _, f := range functions {
			out = append(out, &pb.PCIDevice{
				VendorId: hexID(f.VendorID), DeviceId: hexID(f.DeviceID), Class: hexID(f.ClassCode),
				Vendor: known(device.Manufacturer), Product: product,
			})
		}
	}
	return out
}

// hexID returns 0x8086 as the inventory has it, 8086.
func hexID(s string) string { return strings.TrimPrefix(strings.ToLower(s), "0x") }

// enclosure reads the chassis, and the board where a chassis is one.
func (d *Driver) enclosure(ctx context.Context, failed func(error)) (*pb.Chassis, *pb.Baseboard) {
	var chassis *pb.Chassis
	var board *pb.Baseboard
	paths, err := d.chassis(ctx)
	failed(err)
	for _, path := range paths {
		var c struct {
			ChassisType, Manufacturer, Model, SerialNumber, AssetTag, PartNumber string
		}
		if _, err := d.get(ctx, path, &c); err != nil {
			failed(err)
			continue
		}
		switch {
		case c.ChassisType == "Card" || c.ChassisType == "Module" || c.ChassisType == "Component":
			if board == nil {
				board = &pb.Baseboard{Manufacturer: known(c.Manufacturer), Product: known(c.Model), Version: known(c.PartNumber), Serial: known(c.SerialNumber)}
			}
		case chassis == nil:
			chassis = &pb.Chassis{Manufacturer: known(c.Manufacturer), Serial: known(c.SerialNumber), AssetTag: known(c.AssetTag), Type: c.ChassisType}
		}
	}
	return chassis, board
}

// firmwareInfo says how the machine starts, as far as Secure Boot tells it.
func (d *Driver) firmwareInfo(ctx context.Context, s *system, failed func(error)) *pb.FirmwareInfo {
	if s.SecureBoot.Path == "" {
		return nil
	}
	state, err := d.SecureBoot(ctx)
	if err != nil {
		failed(err)
		return nil
	}
	info := &pb.FirmwareInfo{SecureBoot: state.Active, SetupMode: state.Mode == bmc.SecureBootSetup}
	if state.Active {
		info.Mode = "uefi"
	}
	return info
}

// bmcInfo reads the manager and its first interface that is up.
func (d *Driver) bmcInfo(ctx context.Context) (*pb.BMCInfo, error) {
	paths, err := d.managers(ctx)
	if err != nil {
		return nil, err
	}
	var m manager
	if _, err := d.get(ctx, paths[0], &m); err != nil {
		return nil, err
	}
	info := &pb.BMCInfo{Present: true, FirmwareVersion: m.FirmwareVersion}
	nics, err := collect[ethernet](ctx, d, m.Ethernet.Path, func(error) {})
	for _, n := range nics {
		mac, ok := n.mac()
		if !ok || info.Mac != "" && info.Address != "" {
			continue
		}
		i := slices.IndexFunc(n.IPv4, func(a struct{ Address string }) bool { return a.Address != "" && a.Address != "0.0.0.0" })
		if i >= 0 {
			info.Mac, info.Address = mac.String(), n.IPv4[i].Address
		} else if info.Mac == "" {
			info.Mac = mac.String()
		}
	}
	return info, err
}
