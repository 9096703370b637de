package inspection

import (
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// fullPool expects exactly what server has.
func fullPool() *pb.Pool {
	return &pb.Pool{Spec: &pb.PoolSpec{Expect: &pb.Expectation{
		Manufacturer: "dell inc.", Product: "PowerEdge R650", BiosVersion: "1.12.1", Processors: 2, ProcessorModel: "gold 6338", Cores: 64,
		MemoryBytes: 64 << 30, Disks: []*pb.ExpectedDisks{{Count: 1, Type: "nvme", MinSizeBytes: 900e9}, {Count: 1, Type: "hdd"}},
		Nics: 1, PciDevices: map[string]uint32{"10DE:2330": 1}, Tpm: 2, SecureBoot: "off", FirmwareMode: "uefi",
	}}}
}

func TestCheck(t *testing.T) {
	t.Run("hardware as expected has no differences", func(t *testing.T) {
		spec := &pb.MachineSpec{Uuid: uuid, Serial: "7xk2lm3", Interfaces: []*pb.Interface{{Mac: "52-54-00-77-00-01", Switch: "leaf-12", SwitchPort: "ethernet7"}}}
		wantLines(t, Check(spec, fullPool(), server()))
	})
	t.Run("nothing expected is nothing checked", func(t *testing.T) {
		wantLines(t, Check(&pb.MachineSpec{}, nil, server()))
		wantLines(t, Check(nil, nil, nil))
	})
	for _, tt := range []struct {
		name   string
		expect *pb.Expectation
		want   []string
	}{
		{"texts", &pb.Expectation{Manufacturer: "HPE", Product: "R650", BiosVersion: "1.12.2", BmcFirmwareVersion: "7.00"}, []string{
			"manufacturer: HPE → Dell Inc.", "product: R650 → PowerEdge R650", "bios_version: 1.12.2 → 1.12.1", "bmc_firmware_version: 7.00 → not known",
		}},
		{"figures", &pb.Expectation{Processors: 1, ProcessorModel: "EPYC", Cores: 32, MemoryBytes: 128 << 30, Nics: 2}, []string{
			"processors: 1 → 2", "processor_model: EPYC → Intel(R) Xeon(R) Gold 6338", "cores: 32 → 64", "memory_bytes: 128 GiB → 64 GiB", "nics: 2 → 1",
		}},
		{"devices, also such as must not be there", &pb.Expectation{PciDevices: map[string]uint32{"10de:2330": 0, "15b3:1017": 2}}, []string{
			"pci_devices[10de:2330]: 0 → 1", "pci_devices[15b3:1017]: 2 → 0",
		}},
		{"firmware", &pb.Expectation{Tpm: 1, SecureBoot: "on", FirmwareMode: "bios"}, []string{
			"tpm: version 1 → version 2", "firmware_mode: bios → uefi", "secure_boot: on → off",
		}},
		{"too few disks of a kind", &pb.Expectation{Disks: []*pb.ExpectedDisks{{Count: 2, Type: "nvme", MinSizeBytes: 900e9, Model: "PM9A3"}, {Count: 1, Type: "hdd"}}}, []string{
			"disks[0]: 2 × nvme of at least 900 GB, model PM9A3 → 1 of its 2 disks",
		}},
		{"disks that nobody expects", &pb.Expectation{Disks: []*pb.ExpectedDisks{{Count: 1, Type: "nvme", MaxSizeBytes: 1e12}}}, []string{
			"disks: no other disks → sda, ST4000, 4 TB, serial D2",
		}},
		{"other disks that are allowed", &pb.Expectation{Disks: []*pb.ExpectedDisks{{Count: 1}}, AllowOtherDisks: true}, nil},
		{"groups that overlap", &pb.Expectation{Disks: []*pb.ExpectedDisks{{Count: 1}, {Count: 1, Type: "nvme"}}}, nil},
		{"a firmware version of disks", &pb.Expectation{Disks: []*pb.ExpectedDisks{{Count: 2, FirmwareVersion: "F1", MinSizeBytes: 1, MaxSizeBytes: 1e13}}, AllowOtherDisks: true}, []string{
			"disks[0]: 2 × any disk of 1 B to 10 TB, firmware F1 → 0 of its 2 disks",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantLines(t, Check(&pb.MachineSpec{Expect: tt.expect}, nil, server()), tt.want...)
		})
	}
	t.Run("a machine's own expectation wins over its pool's, field by field", func(t *testing.T) {
		spec := &pb.MachineSpec{Expect: &pb.Expectation{Product: "R750", Disks: []*pb.ExpectedDisks{{Count: 3}}}}
		wantLines(t, Check(spec, fullPool(), server()), "product: R750 → PowerEdge R650", "disks[0]: 3 × any disk → 2 of its 2 disks")
	})
	t.Run("a USB stick isn't the machine's own", func(t *testing.T) {
		inv := server()
		inv.Disks = append(inv.Disks, &pb.Disk{Name: "sdb", Removable: true, SizeBytes: 1e9}, &pb.Disk{Name: "sdc", Bus: "usb"})
		wantLines(t, Check(&pb.MachineSpec{}, fullPool(), inv))
	})
	t.Run("another machine than the one that was described", func(t *testing.T) {
		wantLines(t, Check(&pb.MachineSpec{Uuid: "00000000-1111-2222-3333-444444444444", Serial: "OTHER"}, nil, server()),
			"uuid: 00000000-1111-2222-3333-444444444444 → "+uuid, "serial: OTHER → 7XK2LM3")
	})
	t.Run("firmware that has no serial number is no other machine", func(t *testing.T) {
		inv := server()
		inv.System.Serial, inv.System.Uuid = "0123456789", ""
		wantLines(t, Check(&pb.MachineSpec{Uuid: uuid, Serial: "7XK2LM3"}, nil, inv))
	})
	t.Run("memory by what is usable, where SMBIOS doesn't say", func(t *testing.T) {
		inv := server()
		inv.Memory = &pb.Memory{UsableBytes: 60 << 30}
		wantLines(t, Check(&pb.MachineSpec{Expect: &pb.Expectation{MemoryBytes: 64 << 30}}, nil, inv))
		wantLines(t, Check(&pb.MachineSpec{Expect: &pb.Expectation{MemoryBytes: 128 << 30}}, nil, inv), "memory_bytes: 128 GiB → 60 GiB usable")
		wantLines(t, Check(&pb.MachineSpec{Expect: &pb.Expectation{MemoryBytes: 32 << 30}}, nil, inv), "memory_bytes: 32 GiB → 60 GiB usable")
	})
	t.Run("of a machine of which nothing is known everything is missing", func(t *testing.T) {
		wantLines(t, Check(&pb.MachineSpec{Expect: &pb.Expectation{Product: "R650", MemoryBytes: 1 << 30, SecureBoot: "on", ProcessorModel: "x", Disks: []*pb.ExpectedDisks{{Count: 1}}}}, nil, &pb.Inventory{}),
			"product: R650 → not known", "processor_model: x → not known", "memory_bytes: 1 GiB → not known", "disks[0]: 1 × any disk → no disks", "secure_boot: on → not known")
	})
}

func TestCheck_Cabling(t *testing.T) {
	for _, tt := range []struct {
		name   string
		nic    *pb.Interface
		change func(*pb.NIC)
		want   []string
	}{
		{"an interface that isn't there", &pb.Interface{Mac: mac2, Switch: "leaf-12"}, nil, []string{"interfaces[0].mac: " + mac2 + " → only " + mac1}},
		{"an interface that no port is given for only says who the machine is", &pb.Interface{Mac: mac2}, nil, nil},
		{"the wrong port", &pb.Interface{Mac: mac1, Switch: "leaf-12", SwitchPort: "Ethernet8"}, nil, []string{"interfaces[0].switch_port: Ethernet8 → Ethernet7"}},
		{"the wrong switch", &pb.Interface{Mac: mac1, Switch: "leaf-13.dc1.example.net", SwitchPort: "Ethernet7"}, nil, []string{"interfaces[0].switch: leaf-13.dc1.example.net → leaf-12.dc1.example.net"}},
		{"a switch by its chassis", &pb.Interface{Mac: mac1, Switch: "001c.73aa.bbcc"}, nil, nil},
		{"a port by its description", &pb.Interface{Mac: mac1, SwitchPort: "rack 3 u12"}, func(n *pb.NIC) { n.Lldp.PortDescription = "Rack 3 U12" }, nil},
		{"the domain must not differ where it is given", &pb.Interface{Mac: mac1, Switch: "leaf-12.dc2.example.net"}, nil, []string{"interfaces[0].switch: leaf-12.dc2.example.net → leaf-12.dc1.example.net"}},
		{"no link", &pb.Interface{Mac: mac1, Switch: "leaf-12", SwitchPort: "Ethernet7"}, func(n *pb.NIC) { n.Lldp, n.Link = nil, false }, []string{"interfaces[0].switch_port: Ethernet7 of leaf-12 → no link"}},
		{"a silent switch", &pb.Interface{Mac: mac1, Switch: "leaf-12"}, func(n *pb.NIC) { n.Lldp = nil }, []string{"interfaces[0].switch_port: a port of leaf-12 → a neighbour that was not heard by LLDP"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inv := server()
			if tt.change != nil {
				tt.change(inv.Nics[0])
			}
			wantLines(t, Check(&pb.MachineSpec{Interfaces: []*pb.Interface{tt.nic}}, nil, inv), tt.want...)
		})
	}
}

func TestListening(t *testing.T) {
	inv := server()
	inv.Nics[0].Lldp = nil
	cabled := &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: mac1, SwitchPort: "Ethernet7"}}}
	for _, tt := range []struct {
		name string
		spec *pb.MachineSpec
		inv  *pb.Inventory
		want bool
	}{
		{"a neighbour that is expected and not heard yet", cabled, inv, true},
		{"one that was heard", cabled, server(), false},
		{"none is expected", &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: mac1}}}, inv, false},
		{"the agent has listened long enough", cabled, &pb.Inventory{Nics: inv.Nics, NeighboursTime: inv.CollectTime}, false},
		{"an interface that isn't there", &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: mac2, Switch: "s"}}}, inv, false},
	} {
		if got := Listening(tt.spec, tt.inv); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
