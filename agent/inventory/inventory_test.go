package inventory

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// plant makes a tree: a value that begins with "-> " is a symbolic link.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// page makes a SCSI vital product data page.
func page(number byte, content []byte) string {
	return string(append([]byte{0, number, byte(len(content) >> 8), byte(len(content))}, content...))
}

func server(t *testing.T) string {
	naa := append([]byte{1, 3, 0, 8}, 0x50, 0x00, 0xc5, 0x00, 0x11, 0x22, 0x33, 0x44)
	t10 := append([]byte{2, 0, 0, 5}, "drv-0"...)
	files := map[string]string{
		"proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\n",
		"proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu vmx\n\nprocessor\t: 1\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu vmx\n",

		"sys/devices/system/cpu/cpu0/topology/physical_package_id": "0\n", "sys/devices/system/cpu/cpu0/topology/core_id": "0\n",
		"sys/devices/system/cpu/cpu1/topology/physical_package_id": "0\n", "sys/devices/system/cpu/cpu1/topology/core_id": "0\n",
		"sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3500000\n", "sys/devices/system/cpu/cpuidle/x": "",

		"sys/firmware/efi/efivars/SecureBoot-" + globalVariable: "\x06\x00\x00\x00\x01",
		"sys/firmware/efi/efivars/SetupMode-" + globalVariable:  "\x06\x00\x00\x00\x00",
		"sys/class/tpm/tpm0/tpm_version_major":                  "2\n",

		// A network interface and its PCI function.
		"sys/devices/pci0/0000:00:02.0/vendor": "0x8086\n", "sys/devices/pci0/0000:00:02.0/device": "0x1521\n", "sys/devices/pci0/0000:00:02.0/class": "0x020000\n",
		"sys/devices/pci0/0000:00:02.0/driver":           "-> ../../../bus/pci/drivers/igb",
		"sys/bus/pci/drivers/igb/x":                      "",
		"sys/bus/pci/devices/0000:00:02.0":               "-> ../../../devices/pci0/0000:00:02.0",
		"sys/devices/pci0/0000:00:02.0/net/eth0/type":    "1\n",
		"sys/devices/pci0/0000:00:02.0/net/eth0/address": "52:54:00:77:00:01\n",
		"sys/devices/pci0/0000:00:02.0/net/eth0/carrier": "1\n",
		"sys/devices/pci0/0000:00:02.0/net/eth0/speed":   "10000\n",
		"sys/devices/pci0/0000:00:02.0/net/eth0/mtu":     "1500\n",
		"sys/devices/pci0/0000:00:02.0/net/eth0/device":  "-> ../../../0000:00:02.0",
		"sys/class/net/eth0":                             "-> ../../devices/pci0/0000:00:02.0/net/eth0",
		"sys/class/net/lo/type":                          "772\n",
		"usr/share/misc/pci.ids":                         "# comment\n8086  Intel Corporation\n\t1521  I350 Gigabit\n\t\t8086 0001  Subsystem\n10ec  Realtek\n\t1521  Wrong\nC 02  Network\n",

		// NVMe.
		"sys/devices/pci0/0000:00:04.0/nvme/nvme0/model": "QEMU NVMe Ctrl                          \n", "sys/devices/pci0/0000:00:04.0/nvme/nvme0/serial": "NV1\n",
		"sys/devices/pci0/0000:00:04.0/nvme/nvme0/firmware_rev": "7.2\n", "sys/devices/pci0/0000:00:04.0/nvme/nvme0/nvme0n1/device": "-> ../../nvme0",
		"sys/devices/pci0/0000:00:04.0/nvme/nvme0/nvme0n1/size": "2097152\n", "sys/devices/pci0/0000:00:04.0/nvme/nvme0/nvme0n1/wwid": "eui.0025\n",
		"sys/devices/pci0/0000:00:04.0/nvme/nvme0/nvme0n1/nsid": "1\n", "sys/devices/pci0/0000:00:04.0/nvme/nvme0/nvme0n1/queue/logical_block_size": "512\n",
		"sys/devices/pci0/0000:00:04.0/nvme/nvme0/nvme0n1/queue/discard_max_bytes": "1024\n",
		"sys/block/nvme0n1": "-> ../devices/pci0/0000:00:04.0/nvme/nvme0/nvme0n1",

		// A SATA disk, a SCSI disk of QEMU, a virtio disk, and what is none.
		"sys/block/sda/size": "100\n", "sys/block/sda/device/vendor": "ATA     \n", "sys/block/sda/device/model": "ST4000NM0035-1V4\n", "sys/block/sda/device/rev": "TN02\n",
		"sys/block/sda/queue/rotational": "1\n", "sys/block/sda/device/vpd_pg83": page(0x83, naa), "sys/block/sda/device/vpd_pg80": page(0x80, []byte("   ZC1  ")),
		"sys/block/sdb/size": "100\n", "sys/block/sdb/device/vendor": "QEMU    \n", "sys/block/sdb/device/model": "QEMU HARDDISK   \n",
		"sys/block/sdb/device/vpd_pg83": page(0x83, t10),
		"sys/block/vda/size":            "100\n", "sys/block/vda/device/vendor": "0x1af4\n", "sys/block/vda/serial": "disk 7",
		"sys/block/sdc/size": "0\n", "sys/block/sdc/device/vendor": "Generic\n", "sys/block/loop0/size": "8\n", "sys/block/sr0/size": "8\n", "sys/block/sr0/device/x": "",
		"sys/block/nvme0c0n1/size": "8\n", "sys/block/nvme0c0n1/device/x": "", "sys/block/nvme0c0n1/hidden": "1\n",
	}
	return plant(t, files)
}

// fakeDevices answers for the disks of server.
type fakeDevices struct{ hang chan struct{} }

func (fakeDevices) Identity(_ context.Context, disk string) ([]byte, error) {
	if disk != "sda" {
		return nil, errors.New("not an ATA disk")
	}
	b := make([]byte, 512)
	// As the kernel gives it: texts in reading order, other words as they are.
	put := func(at int, s string, n int) { copy(b[at:], s+strings.Repeat(" ", n-len(s))) }
	put(20, "            ZC19ABCD", 20)
	put(46, "TN02", 8)
	put(54, "ST4000NM0035-1V4107", 40)
	binary.LittleEndian.PutUint16(b[174:], 1<<8)
	for i, w := range []uint16{0x5000, 0xc500, 0xa1b2, 0xc3d4} {
		binary.LittleEndian.PutUint16(b[216+2*i:], w)
	}
	return b, nil
}

func (d fakeDevices) Health(_ context.Context, disk, bus string) (*pb.SMART, error) {
	if d.hang != nil && disk == "sdb" {
		<-d.hang
	}
	if bus == "nvme" {
		return &pb.SMART{Supported: true, Healthy: true}, nil
	}
	return nil, errNoHealth
}

func (fakeDevices) BMC(context.Context) (*pb.BMCInfo, error) { return nil, errors.New("no answer") }

func (fakeDevices) Driver(string) (string, string, error) { return "igb", "1.63", nil }

func TestCollector_Collect(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := New(Config{Root: server(t), Devices: fakeDevices{}, Now: func() time.Time { return now }, Addresses: func(string) []string { return []string{"10.0.0.5/24"} }})
	got := c.Collect(t.Context())
	want := &pb.Inventory{
		Processors: []*pb.Processor{{Vendor: "GenuineIntel", Model: "Xeon", Cores: 1, Threads: 2, MaxMhz: 3500, Flags: []string{"fpu", "vmx"}}},
		Memory:     &pb.Memory{UsableBytes: 16 << 20},
		Firmware:   &pb.FirmwareInfo{Mode: "uefi", SecureBoot: true},
		Tpm:        &pb.TPM{Present: true, Version: 2},
		Bmc:        &pb.BMCInfo{},
		PciDevices: []*pb.PCIDevice{{Address: "0000:00:02.0", VendorId: "8086", DeviceId: "1521", Class: "020000", Driver: "igb", Vendor: "Intel Corporation", Product: "I350 Gigabit"}},
		Nics: []*pb.NIC{{
			Name: "eth0", Mac: "52:54:00:77:00:01", Driver: "igb", Link: true, SpeedMbps: 10000, Mtu: 1500, PciAddress: "0000:00:02.0",
			Vendor: "Intel Corporation", Product: "I350 Gigabit", Addresses: []string{"10.0.0.5/24"}, FirmwareVersion: "1.63",
		}},
		Disks: []*pb.Disk{
			{
				Name: "nvme0n1", Path: "/dev/nvme0n1", Model: "QEMU NVMe Ctrl", Serial: "NV1", Wwn: "eui.0025", FirmwareVersion: "7.2", SizeBytes: 1 << 30,
				LogicalBlockSize: 512, Bus: "nvme", Type: "nvme", PciAddress: "0000:00:04.0", Discard: true, Smart: &pb.SMART{Supported: true, Healthy: true},
				ById: []string{"nvme-QEMU_NVMe_Ctrl_NV1", "nvme-QEMU_NVMe_Ctrl_NV1_1", "nvme-eui.0025"},
			},
			{
				Name: "sda", Path: "/dev/sda", Model: "ST4000NM0035-1V4107", Serial: "ZC19ABCD", Wwn: "0x5000c500a1b2c3d4", FirmwareVersion: "TN02", SizeBytes: 51200,
				Rotational: true, Bus: "sata", Type: "hdd", Smart: &pb.SMART{}, ById: []string{"ata-ST4000NM0035-1V4107_ZC19ABCD", "wwn-0x5000c500a1b2c3d4"},
			},
			{
				Name: "sdb", Path: "/dev/sdb", Model: "QEMU HARDDISK", Vendor: "QEMU", SizeBytes: 51200, Bus: "scsi", Type: "virtual", Smart: &pb.SMART{},
				ById: []string{"scsi-0QEMU_QEMU_HARDDISK_drv-0"},
			},
			{
				Name: "vda", Path: "/dev/vda", Serial: "disk 7", SizeBytes: 51200, Bus: "virtio", Type: "virtual", Smart: &pb.SMART{},
				ById: []string{"virtio-disk_7"},
			},
		},
	}
	opts := []cmp.Option{protocmp.Transform(), protocmp.IgnoreFields(&pb.Inventory{}, "collect_time", "architecture", "kernel", "warnings", "system", "bios", "baseboard", "chassis")}
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	warnings := strings.Join(got.GetWarnings(), "\n")
	for _, want := range []string{"SMBIOS: ", "sda: no SMART: disks of this kind have none"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning %q in:\n%s", want, warnings)
		}
	}
}

func TestCollector_Empty(t *testing.T) {
	got := New(Config{Root: t.TempDir(), Now: time.Now}).Collect(t.Context())
	if got.GetFirmware().GetMode() != "bios" || len(got.GetWarnings()) < 4 {
		t.Errorf("inventory of nothing: %v", got)
	}
}

func TestCollector_DyingDisk(t *testing.T) {
	root := server(t)
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		begun := time.Now()
		got := New(Config{Root: root, Devices: fakeDevices{hang: hang}, Now: time.Now}).Collect(t.Context())
		if d := time.Since(begun); d != deviceLimit {
			t.Errorf("it took %s", d)
		}
		close(hang)
		if w := strings.Join(got.GetWarnings(), "\n"); !strings.Contains(w, "sdb: it did not answer") || len(got.GetDisks()) != 4 {
			t.Errorf("%d disks, warnings:\n%s", len(got.GetDisks()), w)
		}
	})
}

func TestHealth(t *testing.T) {
	t.Run("NVMe", func(t *testing.T) {
		b := make([]byte, 512)
		b[1], b[2], b[5], b[128], b[160] = 0x3b, 0x01, 12, 100, 3 // 315 K
		want := &pb.SMART{Supported: true, Healthy: true, TemperatureCelsius: 42, PercentageUsed: 12, PowerOnHours: 100, MediaErrors: 3}
		got, err := parseNVMeHealth(b)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
	t.Run("ATA", func(t *testing.T) {
		b := make([]byte, 512)
		for i, a := range [][2]byte{{attrReallocated, 8}, {attrPowerOnHours, 77}, {attrTemperature, 31}, {attrUncorrectable, 1}} {
			b[2+12*i], b[2+12*i+5] = a[0], a[1]
		}
		want := &pb.SMART{Supported: true, TemperatureCelsius: 31, PowerOnHours: 77, MediaErrors: 1, ReallocatedSectors: 8}
		got, err := parseATAHealth(b, false)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
	t.Run("ATA status", func(t *testing.T) {
		sense := make([]byte, 22)
		sense[0], sense[8], sense[17], sense[19] = 0x72, 0x09, 0xf4, 0x2c
		if healthy, ok := ataStatus(sense); healthy || !ok {
			t.Error("a threshold exceeded is not seen")
		}
		sense[17], sense[19] = 0x4f, 0xc2
		if healthy, ok := ataStatus(sense); !healthy || !ok {
			t.Error("good is not seen")
		}
	})
	t.Run("SCSI", func(t *testing.T) {
		got, err := parseSCSIHealth([]byte{0x2f, 0, 0, 8, 0, 0, 3, 4, 0x5d, 0x10, 35, 0})
		if err != nil || got.GetHealthy() || got.GetTemperatureCelsius() != 35 {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestReadBMC(t *testing.T) {
	answers := map[string][]byte{
		"\x06\x01":                 {0x20, 0x81, 0x01, 0x23, 0x02},
		"\x06\x42\x01":             {0x01, 0x05},
		"\x06\x42\x02":             {0x02, 0x04},
		"\x0c\x02\x02\x03\x00\x00": {0x11, 10, 0, 0, 9},
		"\x0c\x02\x02\x05\x00\x00": {0x11, 1, 2, 3, 4, 5, 6},
	}
	got, err := readBMC(func(netfn, cmd byte, data ...byte) ([]byte, error) {
		if b, ok := answers[string(append([]byte{netfn, cmd}, data...))]; ok {
			return b, nil
		}
		return nil, errors.New("completion code 0xcc")
	})
	want := &pb.BMCInfo{Present: true, Address: "10.0.0.9", Mac: "01:02:03:04:05:06", FirmwareVersion: "1.23"}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func FuzzPages(f *testing.F) {
	f.Add([]byte(page(0x83, append([]byte{1, 3, 0, 8}, 0x50, 0, 0xc5, 0, 1, 2, 3, 4))))
	f.Add(make([]byte, 512))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = wwn(b)
		_ = scsiID(b, "V", "M")
		_ = pageSerial(b)
		_, _ = parseIdentity(b)
		_, _ = parseNVMeHealth(b)
		_, _ = parseATAHealth(b, true)
		_, _ = parseSCSIHealth(b)
		_, _ = ataStatus(b)
	})
}
