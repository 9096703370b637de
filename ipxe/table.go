package ipxe

// Arch is a client system architecture of DHCP option 93 (RFC 4578 §2.1, IANA
// registry "Processor Architecture Types").
type Arch uint16

// Role is what a boot file does.
type Role string

// The roles of boot files.
const (
	RoleIPXE Role = "ipxe" // gets a script and boots what it says
	RoleShim Role = "shim" // signed by Microsoft's key; starts the GRUB beside it
	RoleGRUB Role = "grub" // signed by the distribution's key; reads /grub/grub.cfg
	RoleMOK  Role = "mok"  // shim's key manager; shim starts it when keys wait to be enrolled
)

// BootFile is a row of the table of boot files.
type BootFile struct {
	// Name is what clients ask for, by TFTP and under /boot/.
	Name string
	// Archs are the clients that are told to boot it; none for files that
	// another boot file asks for, or that only a person may name.
	Archs []Arch
	// SecureBoot says that Archs are told so where Secure Boot is on.
	SecureBoot bool
	// CPU and Firmware say what it runs on.
	CPU, Firmware string
	Role          Role
	// Package is the Debian package that has it, Sources what it may be called
	// in the directories given to Load, in order of preference.
	Package string
	Sources []string
	// Optional files are served when they are there and not missed when not.
	Optional bool
}

var (
	archBIOS  = []Arch{0, 20}
	archAMD64 = []Arch{7, 9, 16, 17}
	archARM64 = []Arch{11, 19}
)

// Table returns the one table of boot file names, of which DHCP, TFTP and HTTP
// all speak. The caller may alter what it gets.
func Table() []BootFile {
	return []BootFile{
		{Name: "undionly.kpxe", Archs: archBIOS, CPU: "x86", Firmware: "bios", Role: RoleIPXE, Package: "ipxe", Sources: []string{"undionly.kpxe"}},
		// snponly.efi drives the interface through the firmware's own driver
		// and is the one to use: ipxe.efi took longer and fails on NICs it has no driver for.
		{Name: "snponly.efi", Archs: archAMD64, CPU: "x86_64", Firmware: "uefi", Role: RoleIPXE, Package: "ipxe", Sources: []string{"snponly.efi"}},
		{Name: "ipxe.efi", CPU: "x86_64", Firmware: "uefi", Role: RoleIPXE, Package: "ipxe", Sources: []string{"ipxe.efi"}, Optional: true},
		// No Debian package has it: see --ipxe-dir.
		{Name: "snponly-arm64.efi", Archs: archARM64, CPU: "arm64", Firmware: "uefi", Role: RoleIPXE, Sources: []string{"snponly-arm64.efi", "arm64-efi/snponly.efi"}, Optional: true},
		{Name: "shimx64.efi", Archs: archAMD64, SecureBoot: true, CPU: "x86_64", Firmware: "uefi", Role: RoleShim, Package: "shim-signed", Sources: []string{"shimx64.efi.signed"}},
		{Name: "bootx64.efi", CPU: "x86_64", Firmware: "uefi", Role: RoleShim, Package: "shim-signed", Sources: []string{"shimx64.efi.signed"}},
		// The image for network boot: grubx64.efi.signed looks for its configuration on a disk.
		{Name: "grubx64.efi", CPU: "x86_64", Firmware: "uefi", Role: RoleGRUB, Package: "grub-efi-amd64-signed", Sources: []string{"grubnetx64.efi.signed"}},
		{Name: "mmx64.efi", CPU: "x86_64", Firmware: "uefi", Role: RoleMOK, Package: "shim-helpers-amd64-signed", Sources: []string{"mmx64.efi.signed"}, Optional: true},
	}
}

// DefaultDirs are where Debian's packages put boot files.
func DefaultDirs() []string {
	return []string{"/usr/lib/ipxe", "/usr/lib/shim", "/usr/lib/grub/x86_64-efi-signed"}
}
