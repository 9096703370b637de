package inventory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// sectorSize is the unit of sysfs's size, whatever the disk's own.
const sectorSize = 512

// Disks lists the disks without asking them for their health.
func (c *Collector) Disks(ctx context.Context) ([]*pb.Disk, error) {
	if _, err := os.Stat(c.path("sys/block")); err != nil {
		return nil, fmt.Errorf("listing disks: %w", err)
	}
	quiet := New(Config{Root: c.cfg.Root, Now: c.cfg.Now, Devices: onlyIdentity{c.cfg.Devices}})
	ctx, cancel := context.WithTimeout(ctx, deviceLimit)
	defer cancel()
	return quiet.disks(ctx, &report{}), nil
}

// onlyIdentity asks disks who they are, which names them, and nothing else.
type onlyIdentity struct{ Devices }

func (o onlyIdentity) Identity(ctx context.Context, disk string) ([]byte, error) {
	if o.Devices == nil {
		return nil, errNoHealth
	}
	return o.Devices.Identity(ctx, disk)
}

func (onlyIdentity) Health(context.Context, string, string) (*pb.SMART, error) { return nil, nil }

// disks lists what an operating system could be written to.
func (c *Collector) disks(ctx context.Context, r *report) []*pb.Disk {
	entries, err := os.ReadDir(c.path("sys/block"))
	if err != nil {
		r.warn("disks: %v", err)
		return nil
	}
	var all []*pb.Disk
	var wg sync.WaitGroup
	for _, e := range entries {
		if !c.isDisk(e.Name()) {
			continue
		}
		d := c.disk(e.Name())
		all = append(all, d)
		wg.Go(func() { c.ask(ctx, r, d) })
	}
	wg.Wait()
	return all
}

// isDisk leaves out what is no disk of its own: loop and RAM disks, device
// mapper, RAID, optical and floppy drives, boot partitions of eMMC, the hidden
// paths of NVMe multipath, and readers without a card.
func (c *Collector) isDisk(name string) bool {
	for _, p := range []string{"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock"} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	if strings.HasPrefix(name, "mmcblk") && (strings.Contains(name, "boot") || strings.Contains(name, "rpmb")) {
		return false
	}
	if _, err := os.Stat(c.path("sys/block", name, "device")); err != nil {
		return false
	}
	return c.read("sys/block", name, "hidden") != "1" && c.readUint("sys/block", name, "size") > 0
}

func (c *Collector) disk(name string) *pb.Disk {
	dir := "sys/block/" + name
	d := &pb.Disk{
		Name: name, Path: "/dev/" + name,
		SizeBytes:         c.readUint(dir, "size") * sectorSize,
		LogicalBlockSize:  uint32(c.readUint(dir, "queue/logical_block_size")),
		PhysicalBlockSize: uint32(c.readUint(dir, "queue/physical_block_size")),
		Rotational:        c.read(dir, "queue/rotational") == "1",
		Removable:         c.read(dir, "removable") == "1",
		ReadOnly:          c.read(dir, "ro") == "1",
		Discard:           c.readUint(dir, "queue/discard_max_bytes") > 0,
		Model:             collapse(c.read(dir, "device/model")),
		Vendor:            collapse(c.read(dir, "device/vendor")),
		FirmwareVersion:   first(c.read(dir, "device/firmware_rev"), c.read(dir, "device/rev"), c.read(dir, "device/fwrev")),
		PciAddress:        c.pciOf(dir, "device"),
		Bus:               c.bus(name),
	}
	switch d.Bus {
	case "virtio":
		d.Serial, d.Vendor = c.read(dir, "serial"), "" // the attribute is the virtio vendor id, a number
	case "mmc":
		d.Serial, d.Model, d.Vendor = strings.TrimPrefix(c.read(dir, "device/serial"), "0x"), c.read(dir, "device/name"), ""
	case "nvme":
		d.Serial, d.Vendor, d.Wwn = c.read(dir, "device/serial"), "", c.read(dir, "wwid")
	default:
		d.Serial = pageSerial(c.bytes(dir, "device/vpd_pg80"))
		d.Wwn = wwn(c.bytes(dir, "device/vpd_pg83"))
	}
	d.Type = diskType(d)
	d.ById = c.byID(d, nil)
	return d
}

func (c *Collector) bytes(elem ...string) []byte {
	b, err := os.ReadFile(c.path(elem...))
	if err != nil {
		return nil
	}
	return b
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// collapse makes one blank of several: SCSI pads its fields.
func collapse(s string) string { return strings.Join(strings.Fields(s), " ") }

// bus tells from the disk's place in sysfs what it hangs on.
func (c *Collector) bus(name string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	case !strings.HasPrefix(name, "sd"):
		return "unknown"
	}
	p, err := filepath.EvalSymlinks(c.path("sys/block", name, "device"))
	if err != nil {
		p = ""
	}
	switch {
	case strings.Contains(p, "/usb"):
		return "usb"
	case c.read("sys/block", name, "device/vendor") == "ATA": // also behind a SAS controller
		return "sata"
	case strings.Contains(p, "/end_device-"):
		return "sas"
	default:
		return "scsi"
	}
}

func diskType(d *pb.Disk) string {
	maker := strings.ToUpper(d.Vendor + " " + d.Model)
	isVirtual := d.Bus == "virtio" || slices.ContainsFunc([]string{"QEMU", "VMWARE", "VBOX", "MSFT VIRTUAL"}, func(s string) bool { return strings.Contains(maker, s) })
	switch {
	case d.Bus == "nvme":
		return "nvme"
	case isVirtual:
		return "virtual"
	case d.Rotational:
		return "hdd"
	default:
		return "ssd"
	}
}

// ask adds what only the disk itself knows. When ctx ends first, the answer is
// left to come late and unheard: the kernel can't be made to give up a command.
func (c *Collector) ask(ctx context.Context, r *report, d *pb.Disk) {
	d.Smart = &pb.SMART{}
	if c.cfg.Devices == nil {
		return
	}
	type answer struct {
		identity []byte
		idErr    error
		smart    *pb.SMART
		err      error
	}
	name, bus := d.Name, d.Bus
	done := make(chan answer, 1)
	go func() { // at most one per disk; ends with the driver's own time limit
		var a answer
		if bus == "sata" {
			a.identity, a.idErr = c.cfg.Devices.Identity(ctx, name)
		}
		a.smart, a.err = c.cfg.Devices.Health(ctx, name, bus)
		done <- a
	}()
	select {
	case <-ctx.Done():
		r.warn("%s: it did not answer within %s when asked for its health", d.Name, deviceLimit)
	case a := <-done:
		if a.idErr != nil {
			r.warn("%s: asking for its identity: %v", d.Name, a.idErr)
		} else if id, ok := parseIdentity(a.identity); ok {
			d.Model, d.Vendor, d.Serial, d.FirmwareVersion = id.model, "", id.serial, id.firmware
			if id.wwn != "" {
				d.Wwn = id.wwn
			}
			d.ById = c.byID(d, &id)
		}
		if a.err != nil {
			r.warn("%s: no SMART: %v", d.Name, a.err)
		}
		if a.smart != nil {
			d.Smart = a.smart
		}
	}
}
