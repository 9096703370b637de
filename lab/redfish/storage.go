package redfish

import (
	"slices"
	"strings"

	"github.com/bedplate/bedplate/lab/board"
)

// controller groups the disks of one bus.
func controllerOf(d board.Disk) string { return strings.ToUpper(d.Bus) }

func (c *call) disks(controller string) []board.Disk {
	var all []board.Disk
	for _, d := range c.b.Hardware().Disks {
		if controllerOf(d) == controller {
			all = append(all, d)
		}
	}
	return all
}

func getStorages(c *call) error {
	var members []string
	for _, d := range c.b.Hardware().Disks {
		if p := "/Systems/1/Storage/" + controllerOf(d); !slices.Contains(members, p) {
			members = append(members, p)
		}
	}
	return c.collection("StorageCollection", "Storage", members...)
}

// protocols are Redfish's names of buses (Protocol.Protocol).
var protocols = map[string]string{"nvme": "NVMe", "scsi": "SAS", "ahci": "SATA", "usb": "USB", "virtio": "PCIe"}

func getStorage(c *call) error {
	disks := c.disks(c.vars[0])
	if len(disks) == 0 {
		return errNotFound(c.path)
	}
	base := "/Systems/1/Storage/" + c.vars[0]
	var drives []string
	for _, d := range disks {
		drives = append(drives, base+"/Drives/"+d.Name)
	}
	o := c.resource("Storage", "v1_12_0", c.vars[0], c.vars[0]+" Storage")
	o["Status"], o["Drives"], o["Drives@odata.count"], o["Volumes"] = enabled, refs(drives...), len(drives), ref(base+"/Volumes")
	o["StorageControllers"] = []object{{
		"@odata.id": root + base + "#/StorageControllers/0", "MemberId": "0", "Name": c.vars[0] + " Controller", "Manufacturer": "QEMU",
		"Status": enabled, "SupportedDeviceProtocols": []string{protocols[disks[0].Bus]}, "SupportedControllerProtocols": []string{"PCIe"},
	}}
	return c.show(o)
}

func (c *call) disk() (board.Disk, bool) {
	for _, d := range c.disks(c.vars[0]) {
		if d.Name == c.vars[1] {
			return d, true
		}
	}
	return board.Disk{}, false
}

func getDrive(c *call) error {
	d, ok := c.disk()
	if !ok {
		return errNotFound(c.path)
	}
	o := c.resource("Drive", "v1_15_0", d.Name, d.Name)
	o["SerialNumber"], o["CapacityBytes"], o["Protocol"], o["MediaType"], o["Status"] = d.Serial, d.Size, protocols[d.Bus], "SSD", enabled
	o["Model"], o["Manufacturer"], o["BlockSizeBytes"], o["FailurePredicted"] = d.Model, "QEMU", 512, false
	o["Identifiers"] = []object{}
	o["Links"] = object{"Volumes": refs("/Systems/1/Storage/" + c.vars[0] + "/Volumes/" + d.Name)}
	return c.show(o)
}

func getVolumes(c *call) error {
	disks := c.disks(c.vars[0])
	if len(disks) == 0 {
		return errNotFound(c.path)
	}
	var members []string
	for _, d := range disks {
		members = append(members, "/Systems/1/Storage/"+c.vars[0]+"/Volumes/"+d.Name)
	}
	return c.collection("VolumeCollection", "Volumes", members...)
}

// getVolume: a disk without a RAID controller is a volume by itself.
func getVolume(c *call) error {
	d, ok := c.disk()
	if !ok {
		return errNotFound(c.path)
	}
	o := c.resource("Volume", "v1_8_0", d.Name, d.Name)
	o["CapacityBytes"], o["BlockSizeBytes"], o["VolumeType"], o["RAIDType"], o["Status"] = d.Size, 512, "RawDevice", nil, enabled
	o["Links"] = object{"Drives": refs("/Systems/1/Storage/" + c.vars[0] + "/Drives/" + d.Name)}
	return c.show(o)
}
