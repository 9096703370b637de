package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// qemuProgram is the emulator; Debian: qemu-system-x86.
const qemuProgram = "qemu-system-x86_64"

// Names of files in a machine's folder. QEMU runs there, so that its command
// line and the paths of its sockets stay short (108 bytes at most).
const (
	serialLog    = "serial.log"
	serialSocket = "serial.sock"
	qmpSocket    = "qmp.sock"
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

// qemuArgs is the command line of a machine.
func qemuArgs(lab string, m MachineSpec, tap, accel string) []string {
	args := []string{
		"-name", "guest=" + lab + "/" + m.Name,
		"-accel", accel, "-cpu", cpuModel(accel),
		"-smp", strconv.Itoa(m.CPUs), "-m", strconv.FormatInt(int64(m.Memory>>20), 10),
		// No VGA: SeaBIOS and iPXE then talk on the serial port.
		"-nodefaults", "-nographic", "-monitor", "none",
		"-uuid", m.UUID,
		"-smbios", "type=1,manufacturer=Bedplate,product=Lab,serial=" + m.Serial + ",uuid=" + m.UUID,
		"-smbios", "type=3,manufacturer=Bedplate,serial=" + m.Serial + ",asset=" + m.Name,
		"-chardev", "socket,id=serial0,path=" + serialSocket + ",server=on,wait=off,logfile=" + serialLog + ",logappend=on",
		"-serial", "chardev:serial0",
		"-qmp", "unix:" + qmpSocket + ",server=on,wait=off",
		"-pidfile", pidFile,
		"-device", "virtio-rng-pci",
	}
	args = append(args, firmwareArgs(m.Firmware)...)
	nic, disk := bootIndexes(m)
	args = append(args, nicArgs(m, tap, nic)...)
	for i, d := range m.Disks {
		args = append(args, diskArgs(m, i, d, disk)...)
	}
	return append(args, m.Args...)
}

// cpuModel: under emulation Go programs in the guest need RDRAND, which QEMU's
// default model lacks: without it they waited 120 s for the kernel's entropy.
func cpuModel(accel string) string {
	if accel == "kvm" {
		return "host"
	}
	return "max"
}

func firmwareArgs(f Firmware) []string {
	if !f.uefi() {
		// With nothing to boot SeaBIOS tries again, as servers do, instead of halting.
		return []string{"-machine", "pc", "-boot", "menu=off,reboot-timeout=5000"}
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
		// Without DHCPv6 an attempt by IPv6 costs a minute.
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
	}
	if f.http() {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	}
	if f.secure() {
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return args
}

// bootIndexes returns the place in the boot order of the network card and of
// the first disk; 0 means not in it.
func bootIndexes(m MachineSpec) (nic, disk int) {
	for i, b := range m.Boot {
		// Disks take a range of their own, so that several fit.
		at := 1 + 10*i
		if b == "network" && nic == 0 {
			nic = at
		}
		if b == "disk" && disk == 0 {
			disk = at
		}
	}
	return nic, disk
}

func index(i int) string {
	if i == 0 {
		return ""
	}
	return ",bootindex=" + strconv.Itoa(i)
}

func nicArgs(m MachineSpec, tap string, boot int) []string {
	device := nicModels[m.NIC] + ",id=nic0,netdev=net0,mac=" + m.MAC + index(boot)
	if m.Firmware.uefi() {
		device += ",romfile=" // else QEMU's iPXE would take the card from OVMF
	}
	return []string{"-netdev", "tap,id=net0,ifname=" + tap + ",script=no,downscript=no", "-device", device}
}

func diskArgs(m MachineSpec, i int, d DiskSpec, boot int) []string {
	id := "disk" + strconv.Itoa(i)
	if boot > 0 {
		boot += i
	}
	// Written data lives as long as the host does; flushing would only cost time.
	args := []string{"-drive", "if=none,id=" + id + ",file=" + diskFile(i) + ",format=raw,cache=unsafe,discard=unmap"}
	serial := ",serial=" + strings.ToUpper(m.Name) + "-D" + strconv.Itoa(i) + index(boot)
	switch d.Bus {
	case "nvme":
		return append(args, "-device", "nvme,drive="+id+serial)
	case "scsi":
		return append(args, "-device", "virtio-scsi-pci,id=scsi"+strconv.Itoa(i), "-device", fmt.Sprintf("scsi-hd,bus=scsi%d.0,drive=%s%s", i, id, serial))
	case "ahci":
		return append(args, "-device", "ahci,id=ahci"+strconv.Itoa(i), "-device", fmt.Sprintf("ide-hd,bus=ahci%d.0,drive=%s%s", i, id, serial))
	default:
		return append(args, "-device", "virtio-blk-pci,drive="+id+serial)
	}
}

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
