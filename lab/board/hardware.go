package board

// Hardware is what a machine is made of, as far as its board can tell.
type Hardware struct {
	Name         string
	Manufacturer string
	Model        string
	Serial       string
	UUID         string
	AssetTag     string
	UEFI         bool
	// SecureBoot: the firmware has it, whether it is enforced or not.
	SecureBoot bool
	TPM        bool
	CPUs       int
	CPUModel   string
	Memory     int64 // bytes
	NICs       []NIC
	Disks      []Disk
	// BIOSVersion is that of the firmware as delivered.
	BIOSVersion string
}

// NIC is a network interface of the machine.
type NIC struct {
	Name  string
	MAC   string
	Model string
}

// Disk is a disk of the machine.
type Disk struct {
	Name   string
	Serial string
	Model  string
	// Bus is virtio, nvme, scsi, ahci or usb.
	Bus  string
	Size int64 // bytes
}
