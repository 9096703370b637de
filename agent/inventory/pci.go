package inventory

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// pci lists the functions; names come from pci.ids if the system has one.
func (c *Collector) pci(r *report) []*pb.PCIDevice {
	entries, err := os.ReadDir(c.path("sys/bus/pci/devices"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // a machine without PCI
	}
	if err != nil {
		r.warn("PCI: %v", err)
		return nil
	}
	var all []*pb.PCIDevice
	for _, e := range entries {
		dir := "sys/bus/pci/devices/" + e.Name()
		all = append(all, &pb.PCIDevice{
			Address:  e.Name(),
			VendorId: strings.TrimPrefix(c.read(dir, "vendor"), "0x"),
			DeviceId: strings.TrimPrefix(c.read(dir, "device"), "0x"),
			Class:    strings.TrimPrefix(c.read(dir, "class"), "0x"),
			Driver:   c.linkName(dir, "driver"),
		})
	}
	slices.SortFunc(all, func(a, b *pb.PCIDevice) int { return strings.Compare(a.Address, b.Address) })
	c.namePCI(all)
	return all
}

// namePCI reads pci.ids: a vendor is "vvvv  name", below it a device is
// "\tdddd  name".
func (c *Collector) namePCI(devices []*pb.PCIDevice) {
	var f *os.File
	for _, p := range []string{"usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids"} {
		var err error
		if f, err = os.Open(c.path(p)); err == nil {
			break
		}
	}
	if f == nil {
		return
	}
	defer f.Close()
	byVendor := map[string][]*pb.PCIDevice{}
	for _, d := range devices {
		byVendor[d.VendorId] = append(byVendor[d.VendorId], d)
	}
	var now []*pb.PCIDevice
	s := bufio.NewScanner(f)
	for s.Scan() {
		line := s.Text()
		if strings.HasPrefix(line, "C ") { // classes come after the vendors
			return
		}
		id, name, ok := strings.Cut(strings.TrimPrefix(line, "\t"), "  ")
		switch {
		case !ok || line[0] == '#' || strings.HasPrefix(line, "\t\t"):
		case line[0] != '\t':
			now = byVendor[id]
			for _, d := range now {
				d.Vendor = name
			}
		default:
			for _, d := range now {
				if d.DeviceId == id {
					d.Product = name
				}
			}
		}
	}
}

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// pciOf returns the address of the PCI function that a device of sysfs hangs
// on: the last in its path.
func (c *Collector) pciOf(elem ...string) string {
	p, err := filepath.EvalSymlinks(c.path(elem...))
	if err != nil {
		return ""
	}
	parts := strings.Split(p, string(filepath.Separator))
	for i := len(parts) - 1; i >= 0; i-- {
		if pciAddress.MatchString(parts[i]) {
			return parts[i]
		}
	}
	return ""
}
