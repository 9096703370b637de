package inventory

import (
	"os"
	"strconv"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const arphrdEther = "1"

func (c *Collector) nics(r *report) []*pb.NIC {
	entries, err := os.ReadDir(c.path("sys/class/net"))
	if err != nil {
		r.warn("network interfaces: %v", err)
		return nil
	}
	var all []*pb.NIC
	for _, e := range entries {
		dir := "sys/class/net/" + e.Name()
		if _, err := os.Stat(c.path(dir, "device")); err != nil || c.read(dir, "type") != arphrdEther {
			continue // lo, bridges and other links without hardware
		}
		n := &pb.NIC{
			Name: e.Name(), Mac: c.read(dir, "address"), Driver: c.linkName(dir, "device/driver"), Link: c.read(dir, "carrier") == "1",
			Mtu: uint32(c.readUint(dir, "mtu")), PciAddress: c.pciOf(dir, "device"),
		}
		// -1 when the driver doesn't know (virtio).
		if mbps, err := strconv.ParseInt(c.read(dir, "speed"), 10, 32); err == nil && mbps > 0 && n.Link {
			n.SpeedMbps = uint32(mbps)
		}
		if c.cfg.Devices != nil {
			driver, firmware, err := c.cfg.Devices.Driver(e.Name())
			if err != nil {
				r.warn("%s: asking its driver: %v", e.Name(), err)
			}
			if n.FirmwareVersion = firmware; n.Driver == "" {
				n.Driver = driver
			}
		}
		if c.cfg.Addresses != nil {
			n.Addresses = c.cfg.Addresses(e.Name())
		}
		all = append(all, n)
	}
	return all
}

// nameNICs takes vendor and product of the interfaces from their PCI functions:
// names if there are any, else the numbers.
func nameNICs(inv *pb.Inventory) {
	for _, n := range inv.Nics {
		for _, d := range inv.PciDevices {
			if d.Address != n.PciAddress {
				continue
			}
			if n.Vendor = d.Vendor; n.Vendor == "" {
				n.Vendor = d.VendorId
			}
			if n.Product = d.Product; n.Product == "" {
				n.Product = d.DeviceId
			}
		}
	}
}
