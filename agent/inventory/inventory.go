// Package inventory reads a machine's hardware: SMBIOS (DSP0134), processors,
// memory, disks with their health (NVMe 1.4 §5.14.1.2, ATA ACS-3 SMART, SCSI
// informational exceptions), network interfaces, PCI functions, the management
// controller (IPMI 2.0 over /dev/ipmi0), TPM, firmware and Secure Boot, and the
// switch ports at the other end of the cables (LLDP, IEEE 802.1AB).
//
// It never fails as a whole: what could not be read is a warning that says
// why. Collect takes well under a second on ordinary machines; listening for
// LLDP, which takes up to the 30 s between two frames, is apart (Neighbours).
//
// Everything is found below Config.Root, so that tests read trees of their own.
// Questions to devices (SMART, IPMI) go through Config.Devices. A Collector may
// be used by several goroutines at once. Nothing is changed on the machine.
package inventory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/agent/inventory/smbios"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Config is what a Collector is made of.
type Config struct {
	// Root is where /proc, /sys and /dev are; "/" outside tests.
	Root string
	// Devices answers questions to devices; nil: none can be asked.
	Devices Devices
	Now     func() time.Time
	// Addresses returns the IP addresses of an interface; nil: they are left out.
	Addresses func(iface string) []string
}

// Devices asks devices what sysfs doesn't know.
type Devices interface {
	// Identity is the 512 bytes of ATA IDENTIFY DEVICE.
	Identity(ctx context.Context, disk string) ([]byte, error)
	// Health asks a disk on that bus for its SMART state.
	Health(ctx context.Context, disk, bus string) (*pb.SMART, error)
	// BMC asks the management controller.
	BMC(ctx context.Context) (*pb.BMCInfo, error)
	// Driver is the driver's name and firmware version of an interface.
	Driver(iface string) (driver, firmware string, err error)
}

// Collector reads the hardware. Make it with New.
type Collector struct{ cfg Config }

// New returns a Collector.
func New(cfg Config) *Collector {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	return &Collector{cfg: cfg}
}

// deviceLimit bounds all questions to devices together; a dying disk may take
// minutes to answer, and its silence is a finding too.
const deviceLimit = 5 * time.Second

// report collects warnings from parts that run side by side.
type report struct {
	mu       sync.Mutex
	warnings []string
}

func (r *report) warn(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// Collect reads everything but LLDP.
func (c *Collector) Collect(ctx context.Context) *pb.Inventory {
	ctx, cancel := context.WithTimeout(ctx, deviceLimit)
	defer cancel()
	r := &report{}
	inv := &pb.Inventory{CollectTime: timestamppb.New(c.cfg.Now())}
	tables := c.firmwareTables(r)
	c.fillFirmwareTables(inv, tables)
	var wg sync.WaitGroup
	wg.Go(func() { inv.Disks = c.disks(ctx, r) })
	wg.Go(func() { inv.Nics = c.nics(r) })
	wg.Go(func() { inv.PciDevices = c.pci(r) })
	wg.Go(func() { inv.Bmc = c.bmc(ctx, r, tables.IPMI) })
	inv.Processors = c.processors(r, tables)
	inv.Memory = c.memory(r, tables)
	inv.Firmware = c.firmware(r)
	inv.Tpm = c.tpm()
	inv.Architecture, inv.Kernel = kernel()
	wg.Wait()
	nameNICs(inv)
	inv.Warnings = r.warnings
	return inv
}

func (c *Collector) path(elem ...string) string {
	return filepath.Join(append([]string{c.cfg.Root}, elem...)...)
}

// read returns a small file's text without blanks around it, "" if it can't be.
func (c *Collector) read(elem ...string) string {
	b, err := os.ReadFile(c.path(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.Trim(string(b), "\x00"))
}

func (c *Collector) readUint(elem ...string) uint64 {
	n, _ := strconv.ParseUint(c.read(elem...), 10, 64) // absent and odd both mean unknown: 0
	return n
}

// linkName is the last part of what a symbolic link points to, "" without one.
func (c *Collector) linkName(elem ...string) string {
	target, err := os.Readlink(c.path(elem...))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func (c *Collector) firmwareTables(r *report) smbios.Tables {
	b, err := os.ReadFile(c.path("sys/firmware/dmi/tables/DMI"))
	if err != nil {
		r.warn("SMBIOS: %v", err)
		return smbios.Tables{}
	}
	t, err := smbios.Parse(b)
	if err != nil {
		r.warn("SMBIOS: %v", err)
	}
	return t
}

func (c *Collector) fillFirmwareTables(inv *pb.Inventory, t smbios.Tables) {
	inv.System = &pb.System{
		Manufacturer: t.System.Manufacturer, Product: t.System.Product, Version: t.System.Version, Serial: t.System.Serial,
		Uuid: t.System.UUID, Sku: t.System.SKU, Family: t.System.Family,
	}
	inv.Bios = &pb.BIOS{Vendor: t.BIOS.Vendor, Version: t.BIOS.Version, ReleaseDate: t.BIOS.ReleaseDate}
	inv.Baseboard = &pb.Baseboard{Manufacturer: t.Baseboard.Manufacturer, Product: t.Baseboard.Product, Version: t.Baseboard.Version, Serial: t.Baseboard.Serial}
	inv.Chassis = &pb.Chassis{Manufacturer: t.Chassis.Manufacturer, Serial: t.Chassis.Serial, AssetTag: t.Chassis.AssetTag, Type: t.Chassis.Type}
}

// Identity is who the machine is by its firmware: what Enroll says of it.
func (c *Collector) Identity() (uuid, serial string) {
	t := c.firmwareTables(&report{})
	return t.System.UUID, t.System.Serial
}

// HasBMC reports whether SMBIOS names a management controller.
func (c *Collector) HasBMC() bool { return c.firmwareTables(&report{}).IPMI }

func (c *Collector) memory(r *report, t smbios.Tables) *pb.Memory {
	m := &pb.Memory{}
	for line := range strings.Lines(c.read("proc/meminfo")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseUint(f[1], 10, 64)
			m.UsableBytes = kib << 10
		}
	}
	if m.UsableBytes == 0 {
		r.warn("memory: /proc/meminfo has no MemTotal")
	}
	for _, d := range t.Memory {
		m.InstalledBytes += d.SizeBytes
		m.Modules = append(m.Modules, &pb.MemoryModule{
			Locator: d.Locator, SizeBytes: d.SizeBytes, SpeedMts: d.SpeedMTs, Type: d.Type, Manufacturer: d.Manufacturer, Serial: d.Serial, PartNumber: d.PartNumber,
		})
	}
	return m
}

// globalVariable is EFI_GLOBAL_VARIABLE (UEFI §3.3).
const globalVariable = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

func (c *Collector) firmware(r *report) *pb.FirmwareInfo {
	if _, err := os.Stat(c.path("sys/firmware/efi")); err != nil {
		return &pb.FirmwareInfo{Mode: "bios"}
	}
	f := &pb.FirmwareInfo{Mode: "uefi"}
	flag := func(name string) bool {
		// Four bytes of attributes, then the value.
		b, err := os.ReadFile(c.path("sys/firmware/efi/efivars", name+"-"+globalVariable))
		if err != nil {
			r.warn("firmware variable %s: %v", name, err)
			return false
		}
		return len(b) == 5 && b[4] == 1
	}
	f.SecureBoot, f.SetupMode = flag("SecureBoot"), flag("SetupMode")
	return f
}

func (c *Collector) tpm() *pb.TPM {
	if _, err := os.Stat(c.path("sys/class/tpm/tpm0")); err != nil {
		return &pb.TPM{}
	}
	t := &pb.TPM{Present: true, Version: uint32(c.readUint("sys/class/tpm/tpm0/tpm_version_major"))}
	if t.Version == 0 {
		t.Version = 1 // kernels before 5.5 say nothing; the attribute caps is of 1.2 chips
		if _, err := os.Stat(c.path("dev/tpmrm0")); err == nil {
			t.Version = 2
		}
	}
	return t
}

func (c *Collector) bmc(ctx context.Context, r *report, expected bool) *pb.BMCInfo {
	if _, err := os.Stat(c.path("dev/ipmi0")); err != nil || c.cfg.Devices == nil {
		if expected {
			r.warn("BMC: SMBIOS names one, but there is no /dev/ipmi0 (modules ipmi_si and ipmi_devintf)")
		}
		return &pb.BMCInfo{Present: expected}
	}
	b, err := c.cfg.Devices.BMC(ctx)
	if err != nil {
		r.warn("BMC: %v", err)
	}
	if b == nil {
		b = &pb.BMCInfo{Present: expected}
	}
	return b
}

func kernel() (arch, release string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Machine[:]), unix.ByteSliceToString(u.Release[:])
}
