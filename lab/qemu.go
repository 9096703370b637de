package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/lab/board"
)

// qemuProgram is the emulator; Debian: qemu-system-x86.
const qemuProgram = "qemu-system-x86_64"

// Names of files in a machine's folder. QEMU runs there, so that its command
// line and the paths of its sockets stay short (108 bytes at most).
const (
	serialLog    = "serial.log"
	serialSocket = "serial.sock" // ours, for any number of listeners
	uartSocket   = "uart.sock"   // QEMU's, for one
	qmpSocket    = "qmp.sock"    // for orders
	eventSocket  = "events.sock" // a second monitor, which is listened to
	pidFile      = "qemu.pid"
	qemuLog      = "qemu.log"
)

// varsFile keeps firmware variables; those of Secure Boot have other keys in them.
func (f Firmware) varsFile() string {
	if f.secure() {
		return "vars-secure.fd"
	}
	return "vars.fd"
}

func diskFile(i int) string { return fmt.Sprintf("disk%d.raw", i) }

// Firmware files of Debian's ovmf package.
const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfSecureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

func (f Firmware) files() (code, vars string) {
	switch {
	case f.secure():
		return ovmfSecureCode, ovmfSecureVars
	case f.uefi():
		return ovmfCode, ovmfVars
	}
	return "", ""
}

// nicModels are QEMU's names of network cards.
var nicModels = map[string]string{
	"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e", "igb": "igb", "vmxnet3": "vmxnet3", "rtl8139": "rtl8139",
}

// start is what of a command line changes from one power-on to the next.
type start struct {
	setup board.Setup
	media map[board.Drive]board.Medium
	usb   int
}

// qemuArgs is the command line of a machine.
func qemuArgs(lab string, m MachineSpec, taps []string, accel string, s start) []string {
	args := []string{
		"-name", "guest=" + lab + "/" + m.Name,
		"-accel", accel, "-cpu", cpuModel(accel, s.setup.Settings),
		"-smp", strconv.Itoa(cores(m, s.setup.Settings)), "-m", strconv.FormatInt(int64(m.Memory>>20), 10),
		// No VGA: SeaBIOS and iPXE then talk on the serial port.
		"-nodefaults", "-nographic", "-monitor", "none",
		"-uuid", m.UUID,
		"-smbios", "type=1,manufacturer=" + manufacturer + ",product=" + product + ",serial=" + m.Serial + ",uuid=" + m.UUID,
		"-smbios", "type=3,manufacturer=" + manufacturer + ",serial=" + m.Serial + ",asset=" + m.Name,
		"-chardev", "socket,id=serial0,path=" + uartSocket + ",server=on,wait=off,logfile=" + serialLog + ",logappend=on",
		"-serial", "chardev:serial0",
		"-qmp", "unix:" + qmpSocket + ",server=on,wait=off",
		"-qmp", "unix:" + eventSocket + ",server=on,wait=off",
		"-pidfile", pidFile,
		"-device", "virtio-rng-pci",
	}
	if v := s.setup.BIOSVersion; v != "" && v != biosVersion {
		args = append(args, "-smbios", "type=0,vendor="+manufacturer+",version="+v)
	}
	args = append(args, firmwareArgs(m.Firmware, s.setup)...)
	order := bootOrder(m, s.setup.Boot, s.media)
	args = append(args, nicArgs(m, taps, order)...)
	for i, d := range m.Disks {
		args = append(args, diskArgs(m, i, d, order)...)
	}
	if m.TPM {
		args = append(args, tpmArgs()...)
	}
	args = append(args, mediaArgs(m, s, order)...)
	return append(args, m.Args...)
}

// What SMBIOS says of every machine.
const (
	manufacturer = "Bedplate"
	product      = "Lab"
	// biosVersion is that of firmware as delivered; QEMU's own then shows.
	biosVersion = "1.0.0"
)

func cores(m MachineSpec, settings map[string]string) int {
	if settings[board.SettingCores] == "1" {
		return 1
	}
	return m.CPUs
}

// cpuModel: under emulation Go programs in the guest need RDRAND, which QEMU's
// default model lacks: without it they waited 120 s for the kernel's entropy.
func cpuModel(accel string, settings map[string]string) string {
	model := "max"
	if accel == "kvm" {
		model = "host"
	}
	if settings[board.SettingVirtualization] == board.SettingDisabled {
		model += ",-svm,-vmx"
	}
	return model
}

func firmwareArgs(f Firmware, s board.Setup) []string {
	if !f.uefi() {
		// With nothing to boot SeaBIOS tries again, as servers do, instead of halting.
		boot := "menu=off,reboot-timeout=5000"
		if s.Settings[board.SettingMenu] == board.SettingEnabled {
			boot = "menu=on,splash-time=3000,reboot-timeout=5000"
		}
		return []string{"-machine", "pc", "-boot", boot}
	}
	kind := "q35"
	if f.secure() {
		kind = "q35,smm=on"
	}
	code, _ := f.files()
	args := []string{
		"-machine", kind,
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + code,
		"-drive", "if=pflash,format=raw,unit=1,file=" + f.varsFile(),
	}
	// Without DHCPv6 an attempt by IPv6 costs a minute.
	if s.Settings[board.SettingPXE6] != board.SettingEnabled {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	if !pxe4(f, s) {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	}
	if s.Settings[board.SettingMenu] == board.SettingEnabled {
		args = append(args, "-boot", "menu=on,splash-time=3000")
	}
	if f.secure() {
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return args
}

// pxe4 reports whether OVMF offers PXE by IPv4. A boot by HTTP wants it out of
// the way, because the card's place in the boot order is one for both; a boot by
// PXE that the BMC asks for brings it back.
func pxe4(f Firmware, s board.Setup) bool {
	switch {
	case s.Boot == board.BootHTTP:
		return false
	case s.Boot == board.BootPXE:
		return true
	}
	return !f.http() && s.Settings[board.SettingPXE4] != board.SettingDisabled
}

// Names of devices on the command line, by which the monitor knows them.
const (
	cdDevice = "cd0"
	cdDrive  = "cdrom"
)

func nicDevice(i int) string  { return "nic" + strconv.Itoa(i) }
func diskDevice(i int) string { return "hd" + strconv.Itoa(i) }
func usbDevice(n int) string  { return "usbmedia" + strconv.Itoa(n) }
func usbDrive(n int) string   { return "usbdrive" + strconv.Itoa(n) }

// usbAny stands for the virtual stick in a boot order, whatever its number is.
const usbAny = "usbmedia"

// bootOrder returns the place in the boot order of every device that is in it:
// what the override wants first, then what the machine itself wants.
func bootOrder(m MachineSpec, target board.Target, media map[board.Drive]board.Medium) map[string]int {
	var devices []string
	disks := func(stick bool) {
		for i, d := range m.Disks {
			if (d.Bus == "usb") == stick {
				devices = append(devices, diskDevice(i))
			}
		}
	}
	switch target {
	case board.BootPXE, board.BootHTTP:
		devices = append(devices, nicDevice(0))
	case board.BootDisk:
		disks(false)
	case board.BootCD:
		devices = append(devices, cdDevice)
	case board.BootUSB:
		if media[board.USB].File != "" {
			devices = append(devices, usbAny)
		}
		disks(true)
	}
	for _, b := range m.Boot {
		switch b {
		case "network":
			devices = append(devices, nicDevice(0))
		case "disk":
			disks(false)
			disks(true)
		}
	}
	order := map[string]int{}
	for _, d := range devices {
		if order[d] == 0 && (d != cdDevice || m.hasMedia()) {
			order[d] = len(order) + 1
		}
	}
	return order
}

// hasMedia reports whether the machine has the drives of virtual media.
func (m MachineSpec) hasMedia() bool { return m.BMC.there() }

func index(i int) string {
	if i == 0 {
		return ""
	}
	return ",bootindex=" + strconv.Itoa(i)
}

func nicArgs(m MachineSpec, taps []string, order map[string]int) []string {
	var args []string
	add := func(i int, model, mac string) {
		n := strconv.Itoa(i)
		device := nicModels[model] + ",id=" + nicDevice(i) + ",netdev=net" + n + ",mac=" + mac + index(order[nicDevice(i)])
		if m.Firmware.uefi() || i > 0 {
			// Else QEMU's iPXE would take the card from OVMF; and only the first card boots.
			device += ",romfile="
		}
		args = append(args, "-netdev", "tap,id=net"+n+",ifname="+taps[i]+",script=no,downscript=no", "-device", device)
	}
	add(0, m.NIC, m.MAC)
	for i, n := range m.NICs {
		add(i+1, n.Model, n.MAC)
	}
	return args
}

// diskSerial is the serial number of disk i.
func diskSerial(m MachineSpec, i int) string { return strings.ToUpper(m.Name) + "-D" + strconv.Itoa(i) }

func diskArgs(m MachineSpec, i int, d DiskSpec, order map[string]int) []string {
	n := strconv.Itoa(i)
	// Written data lives as long as the host does; flushing would only cost
	// time. What the guest discards
	// is gone from the file and reads as zeroes.
	args := []string{"-drive", "if=none,id=disk" + n + ",file=" + diskFile(i) + ",format=raw,cache=unsafe,discard=unmap"}
	device := ",id=" + diskDevice(i) + ",drive=disk" + n + ",serial=" + diskSerial(m, i) + index(order[diskDevice(i)])
	switch d.Bus {
	case "nvme":
		return append(args, "-device", "nvme"+device)
	case "scsi":
		return append(args, "-device", "virtio-scsi-pci,id=scsi"+n, "-device", "scsi-hd,bus=scsi"+n+".0"+device)
	case "ahci":
		return append(args, "-device", "ahci,id=ahci"+n, "-device", "ide-hd,bus=ahci"+n+".0"+device)
	case "usb":
		return append(args, "-device", "qemu-xhci,id=usbhost"+n, "-device", "usb-storage,bus=usbhost"+n+".0,removable=on"+device)
	default:
		return append(args, "-device", "virtio-blk-pci"+device)
	}
}

// mediaArgs are the BMC's virtual drives: a CD drive that is always there, and
// a USB host for the stick that comes and goes.
func mediaArgs(m MachineSpec, s start, order map[string]int) []string {
	if !m.hasMedia() {
		return nil
	}
	drive := "if=none,id=" + cdDrive + ",media=cdrom,readonly=on"
	if cd := s.media[board.CD]; cd.File != "" {
		drive += ",format=raw,file=" + escapeComma(cd.File)
	}
	args := []string{
		"-drive", drive, "-device", "ide-cd,bus=ide.1,id=" + cdDevice + ",drive=" + cdDrive + index(order[cdDevice]),
		"-device", "qemu-xhci,id=usbhost",
	}
	usb := s.media[board.USB]
	if usb.File == "" {
		return args
	}
	return append(args,
		"-blockdev", "driver=raw,node-name="+usbDrive(s.usb)+",read-only="+onOff(!usb.Writable)+",file.driver=file,file.filename="+escapeComma(usb.File),
		"-device", "usb-storage,bus=usbhost.0,removable=on,id="+usbDevice(s.usb)+",drive="+usbDrive(s.usb)+index(order[usbAny]))
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// escapeComma is how QEMU's options have a comma in a value.
func escapeComma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// makeFiles makes disks and firmware variables that are not there yet.
func makeFiles(dir string, m MachineSpec) error {
	for i, d := range m.Disks {
		f, err := os.OpenFile(filepath.Join(dir, diskFile(i)), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		err = f.Truncate(int64(d.Size))
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	code, vars := m.Firmware.files()
	if code == "" {
		return nil
	}
	if _, err := os.Stat(code); err != nil {
		return fmt.Errorf("UEFI firmware is missing (apt-get install ovmf): %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, m.Firmware.varsFile())); err == nil {
		return nil
	}
	b, err := os.ReadFile(vars)
	if err != nil {
		return fmt.Errorf("UEFI firmware is missing (apt-get install ovmf): %w", err)
	}
	return os.WriteFile(filepath.Join(dir, m.Firmware.varsFile()), b, 0o644)
}
