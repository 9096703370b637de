package inspection

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	mac1 = "52:54:00:77:00:01"
	mac2 = "52:54:00:77:00:02"
	uuid = "4c4c4544-0058-4b10-8032-b7c04f4c4d33"
)

// server is what an agent reads of a machine.
func server() *pb.Inventory {
	return &pb.Inventory{
		CollectTime:  &timestamppb.Timestamp{Seconds: 1767323045},
		System:       &pb.System{Manufacturer: "Dell Inc.", Product: "PowerEdge R650", Serial: "7XK2LM3", Uuid: uuid},
		Bios:         &pb.BIOS{Vendor: "Dell Inc.", Version: "1.12.1"},
		Baseboard:    &pb.Baseboard{Serial: "Default string"},
		Processors:   []*pb.Processor{{Id: 0, Model: "Intel(R) Xeon(R) Gold 6338", Cores: 32, Threads: 64}, {Id: 1, Model: "Intel(R) Xeon(R) Gold 6338", Cores: 32, Threads: 64}},
		Memory:       &pb.Memory{InstalledBytes: 64 << 30, UsableBytes: 63 << 30, Modules: []*pb.MemoryModule{{Locator: "A1", SizeBytes: 32 << 30, Serial: "M1"}, {Locator: "A2", SizeBytes: 32 << 30, Serial: "M2"}}},
		Disks:        []*pb.Disk{{Name: "nvme0n1", Type: "nvme", Model: "PM9A3", Serial: "D1", SizeBytes: 960e9, PciAddress: "0000:01:00.0"}, {Name: "sda", Type: "hdd", Model: "ST4000", Serial: "D2", SizeBytes: 4e12, PciAddress: "0000:02:00.0"}},
		Nics:         []*pb.NIC{{Name: "eno1", Mac: mac1, Link: true, SpeedMbps: 25000, FirmwareVersion: "22.0", PciAddress: "0000:03:00.0", Lldp: &pb.LLDPNeighbour{SystemName: "leaf-12.dc1.example.net", PortId: "Ethernet7", ChassisId: "00:1c:73:aa:bb:cc"}}},
		PciDevices:   []*pb.PCIDevice{{Address: "0000:41:00.0", VendorId: "10de", DeviceId: "2330", Vendor: "NVIDIA", Product: "H100"}},
		Firmware:     &pb.FirmwareInfo{Mode: "uefi"},
		Tpm:          &pb.TPM{Present: true, Version: 2},
		Architecture: "x86_64",
		Kernel:       "6.1.0",
	}
}

// lines writes differences as a person would read them.
func lines(all []*pb.Difference) string {
	var out strings.Builder
	for _, d := range all {
		out.WriteString(d.GetPath() + ": " + d.GetWant() + " → " + d.GetGot() + "\n")
	}
	return out.String()
}

func wantLines(t *testing.T, got []*pb.Difference, want ...string) {
	t.Helper()
	text := strings.Join(want, "\n")
	if text != "" {
		text += "\n"
	}
	if diff := cmp.Diff(text, lines(got)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

func TestMerge(t *testing.T) {
	t.Run("one alone is taken as it is", func(t *testing.T) {
		for _, pair := range [][2]*pb.Inventory{{server(), nil}, {nil, server()}} {
			got, differences := Merge(pair[0], pair[1])
			want := server()
			want.CollectTime = got.GetCollectTime()
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || differences != nil {
				t.Errorf("%v (-want +got):\n%s", differences, diff)
			}
		}
		if got, _ := Merge(nil, nil); got != nil {
			t.Errorf("of nothing comes %v", got)
		}
	})
	t.Run("the BMC fills in what the agent left open", func(t *testing.T) {
		in, out := server(), &pb.Inventory{
			System:     &pb.System{Manufacturer: "Dell", Sku: "0A1B", Serial: "7xk2lm3", Uuid: "44454c4c-5800-104b-8032-b7c04f4c4d33"},
			Bios:       &pb.BIOS{Version: "9.9", ReleaseDate: "2025-01-01"},
			Baseboard:  &pb.Baseboard{Serial: "BOARD1"},
			Processors: []*pb.Processor{{Model: "other", MaxMhz: 3200}},
			Memory:     &pb.Memory{InstalledBytes: 1, Modules: []*pb.MemoryModule{{Locator: "a1", Manufacturer: "Samsung"}, {Locator: "DIMM 2", Serial: "m2", PartNumber: "P2"}, {Locator: "A3", SizeBytes: 1}}},
			Disks:      []*pb.Disk{{Name: "Bay 0", Serial: "d1", FirmwareVersion: "GDC5"}, {Name: "Bay 3", Serial: "D9", Model: "ST4000", SizeBytes: 4e12}},
			Nics:       []*pb.NIC{{Mac: "52-54-00-77-00-01", Product: "BCM57414", FirmwareVersion: "1"}, {Mac: mac2, Product: "X710"}},
			Firmware:   &pb.FirmwareInfo{Mode: "bios", SecureBoot: true},
			Tpm:        &pb.TPM{Present: true, Version: 1},
			Bmc:        &pb.BMCInfo{Present: true, FirmwareVersion: "7.00"},
			Warnings:   []string{"no storage controllers"},
		}
		got, differences := Merge(in, out)
		wantLines(t, differences)
		want := server()
		want.CollectTime = in.GetCollectTime()
		want.System.Sku = "0A1B"
		want.Bios.ReleaseDate = "2025-01-01"
		want.Baseboard.Serial = "BOARD1"
		want.Processors[0].MaxMhz = 3200
		want.Memory.Modules[0].Manufacturer = "Samsung"
		want.Memory.Modules[1].PartNumber = "P2"
		want.Disks[0].FirmwareVersion = "GDC5"
		want.Nics[0].Product = "BCM57414"
		want.Bmc = &pb.BMCInfo{Present: true, FirmwareVersion: "7.00"}
		want.Warnings = []string{
			"the BMC knows of a disk that the operating system doesn't see: Bay 3, ST4000, 4 TB, serial D9",
			"the BMC knows of a network interface that the operating system doesn't see: 52:54:00:77:00:02 X710",
			"no storage controllers",
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("modules and disks come from the BMC where the agent saw none", func(t *testing.T) {
		in := server()
		in.Memory.Modules, in.Disks, in.Memory.InstalledBytes = nil, nil, 0
		got, _ := Merge(in, server())
		if len(got.GetMemory().GetModules()) != 2 || len(got.GetDisks()) != 2 || got.GetMemory().GetInstalledBytes() != 64<<30 {
			t.Errorf("merged = %v", got)
		}
	})
	t.Run("who it is must agree", func(t *testing.T) {
		other := server()
		other.System.Serial, other.System.Uuid = "OTHER", "00000000-1111-2222-3333-444444444444"
		_, differences := Merge(server(), other)
		wantLines(t, differences, "bmc.system.uuid: "+uuid+" → 00000000-1111-2222-3333-444444444444", "bmc.system.serial: 7XK2LM3 → OTHER")
	})
	t.Run("but fillers say nothing", func(t *testing.T) {
		other := server()
		other.System.Serial, other.System.Uuid = "To Be Filled By O.E.M.", "00000000-0000-0000-0000-000000000000"
		_, differences := Merge(server(), other)
		wantLines(t, differences)
	})
	t.Run("and the chassis may have the system's serial number", func(t *testing.T) {
		other := server()
		other.System.Serial, other.Chassis = "BOARD-9", &pb.Chassis{Serial: "7XK2LM3"}
		_, differences := Merge(server(), other)
		wantLines(t, differences)
	})
	t.Run("nothing that was given is altered", func(t *testing.T) {
		a, b := server(), server()
		b.Disks[0].FirmwareVersion = "X"
		beforeA, beforeB := proto.Clone(a), proto.Clone(b)
		Merge(a, b)
		Diff(a, b)
		if !proto.Equal(a, beforeA) || !proto.Equal(b, beforeB) {
			t.Error("an inventory was altered")
		}
	})
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*pb.Inventory)
		want   []string
	}{
		{"nothing", func(*pb.Inventory) {}, nil},
		{"what changes by itself", func(i *pb.Inventory) {
			i.CollectTime, i.Kernel, i.Warnings = nil, "6.12.0", []string{"x"}
			i.Memory.UsableBytes++
			i.Disks[0].Smart = &pb.SMART{Supported: true, Healthy: true, TemperatureCelsius: 41, PowerOnHours: 9}
			i.Nics[0].Addresses, i.Nics[0].Link, i.Nics[0].SpeedMbps, i.Nics[0].Lldp, i.Nics[0].Mtu = []string{"10.0.0.1"}, false, 0, nil, 9000
			i.Nics[0].Name = "eth0"
			i.Bmc = &pb.BMCInfo{Address: "10.0.0.2"}
		}, nil},
		{"disks that the kernel named in another order", func(i *pb.Inventory) {
			i.Disks[0], i.Disks[1] = i.Disks[1], i.Disks[0]
			i.Disks[0].Name, i.Disks[1].Name = "sdb", "nvme1n1"
		}, nil},
		{"a disk that was replaced", func(i *pb.Inventory) {
			i.Disks[0].Serial, i.Disks[0].Model = "D7", "PM9A3b"
		}, []string{"disks[nvme0n1]: PM9A3, 960 GB, serial D1 → PM9A3b, 960 GB, serial D7"}},
		{"a disk that was taken out", func(i *pb.Inventory) { i.Disks = i.Disks[:1] }, []string{"disks[sda]: ST4000, 4 TB, serial D2 → none"}},
		{"a disk's firmware and health", func(i *pb.Inventory) {
			i.Disks[1].FirmwareVersion = "F2"
			i.Disks[1].ReadOnly = true
		}, []string{"disks[sda].firmware_version: none → F2", "disks[sda].read_only: off → on"}},
		{"a memory module that was taken out", func(i *pb.Inventory) {
			i.Memory.Modules, i.Memory.InstalledBytes = i.Memory.Modules[:1], 32<<30
		}, []string{"memory.installed_bytes: 64 GiB → 32 GiB", "memory.modules[A2]: 32 GiB, serial M2 → none"}},
		{"a memory module that was replaced", func(i *pb.Inventory) { i.Memory.Modules[0].Serial = "M9" },
			[]string{"memory.modules[A1]: 32 GiB, serial M1 → 32 GiB, serial M9"}},
		{"a NIC that was replaced", func(i *pb.Inventory) { i.Nics[0].Mac, i.Nics[0].Product = mac2, "X710" },
			[]string{"nics[eno1]: " + mac1 + " → " + mac2 + " X710"}},
		{"a NIC's firmware, speed and cable", func(i *pb.Inventory) {
			i.Nics[0].FirmwareVersion, i.Nics[0].SpeedMbps, i.Nics[0].Lldp.PortId = "23.1", 10000, "Ethernet9"
		}, []string{
			"nics[eno1].firmware_version: 22.0 → 23.1", "nics[eno1].speed_mbps: 25000 → 10000",
			"nics[eno1].lldp: Ethernet7 of leaf-12.dc1.example.net → Ethernet9 of leaf-12.dc1.example.net",
		}},
		{"a processor, the BIOS and the TPM", func(i *pb.Inventory) {
			i.Processors, i.Bios.Version, i.Tpm = i.Processors[:1], "1.13.0", nil
		}, []string{"bios.version: 1.12.1 → 1.13.0", "tpm: version 2 → none", "processors[1]: Intel(R) Xeon(R) Gold 6338, 32 cores, 64 threads → none"}},
		{"a card", func(i *pb.Inventory) { i.PciDevices = append(i.PciDevices, i.PciDevices[0]) },
			[]string{"pci_devices[10de:2330]: 1 × NVIDIA H100 → 2 × NVIDIA H100"}},
		{"text that a terminal would act on", func(i *pb.Inventory) { i.System.Product = "\x1b[2Jevil" + strings.Repeat("x", 1000) },
			[]string{"system.product: PowerEdge R650 →  [2Jevil" + strings.Repeat("x", maxText-len(" [2Jevil…")) + "…"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			after := server()
			tt.change(after)
			wantLines(t, Diff(server(), after), tt.want...)
		})
	}
	t.Run("from nothing, everything is new", func(t *testing.T) {
		if n := len(Diff(nil, server())); n < 10 {
			t.Errorf("%d differences", n)
		}
		wantLines(t, Diff(nil, nil))
	})
	t.Run("what is too much is summed up", func(t *testing.T) {
		a, b := &pb.Inventory{}, &pb.Inventory{}
		for i := range 2000 {
			b.PciDevices = append(b.PciDevices, &pb.PCIDevice{VendorId: "8086", DeviceId: string(rune('a' + i))})
		}
		got := Diff(a, b)
		if len(got) != maxChanges || !strings.Contains(got[maxChanges-1].GetGot(), "more changes") {
			t.Errorf("%d differences, the last %v", len(got), got[len(got)-1])
		}
	})
}

func FuzzInventories(f *testing.F) {
	seed, err := proto.Marshal(server())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, seed)
	f.Add(seed, []byte{})
	f.Fuzz(func(t *testing.T, x, y []byte) {
		var a, b pb.Inventory
		if proto.Unmarshal(x, &a) != nil || proto.Unmarshal(y, &b) != nil {
			return
		}
		merged, _ := Merge(&a, &b)
		all := append(Diff(&a, &b), Diff(&a, merged)...)
		all = append(all, Check(&pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: mac1, Switch: "s", SwitchPort: "p"}}}, fullPool(), merged)...)
		for _, d := range all {
			if len(d.GetPath()) > maxText || len(d.GetWant()) > maxText || len(d.GetGot()) > maxText {
				t.Errorf("too long: %v", d)
			}
		}
		if _, err := proto.Marshal(&pb.MachineStatus{Differences: all, Inventory: merged}); err != nil {
			t.Error(err)
		}
		if same := Diff(&a, &a); len(same) > 0 && a.GetDisks() == nil && a.GetNics() == nil {
			t.Errorf("it differs from itself: %s", lines(same))
		}
	})
}
