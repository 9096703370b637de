package smbios

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// structureBytes makes one structure.
func structureBytes(kind byte, area []byte, text ...string) []byte {
	b := append([]byte{kind, byte(4 + len(area)), 0, 0}, area...)
	for _, s := range text {
		b = append(append(b, s...), 0)
	}
	if len(text) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// table is that of a small server: firmware, system, baseboard, chassis, one
// processor of two sockets, one module of two slots, a BMC.
func table() []byte {
	system := append([]byte{1, 2, 3, 4}, // strings of manufacturer, product, version, serial
		0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, // UUID, three fields little-endian
		6, 5, 6) // wake-up, SKU, family
	cpu := make([]byte, 0x30-4)
	cpu[0x04-4], cpu[0x07-4], cpu[0x10-4], cpu[0x18-4], cpu[0x23-4], cpu[0x25-4] = 1, 2, 3, 0x41, 0xff, 0xff
	binary.LittleEndian.PutUint16(cpu[0x14-4:], 3700)
	binary.LittleEndian.PutUint16(cpu[0x2a-4:], 320)
	binary.LittleEndian.PutUint16(cpu[0x2e-4:], 640)
	socket := make([]byte, 0x30-4) // not populated
	dimm := make([]byte, 0x5c-4)
	binary.LittleEndian.PutUint16(dimm[0x0c-4:], 0x7fff)
	binary.LittleEndian.PutUint32(dimm[0x1c-4:], 65536)
	dimm[0x10-4], dimm[0x12-4], dimm[0x17-4], dimm[0x18-4], dimm[0x1a-4] = 1, 0x22, 2, 3, 4
	binary.LittleEndian.PutUint16(dimm[0x20-4:], 4800)
	slot := make([]byte, 0x5c-4)
	var b []byte
	b = append(b, structureBytes(typeBIOS, []byte{1, 2, 0, 0, 3}, "SeaBIOS", "1.16", "04/01/2014")...)
	b = append(b, structureBytes(typeSystem, system, "LabCorp", "LabBox", "Not Specified", "SN12340", "To Be Filled By O.E.M.", "Boxes")...)
	b = append(b, structureBytes(typeBaseboard, []byte{1, 2, 3, 4}, "LabCorp", "Board", "A1", "B77")...)
	b = append(b, structureBytes(typeChassis, []byte{1, 0x97, 0, 2, 3}, "LabCorp", "C1", "ASSET70")...)
	b = append(b, structureBytes(typeProcessor, cpu, "CPU0", "Intel", " Xeon  ")...)
	b = append(b, structureBytes(typeProcessor, socket)...)
	b = append(b, structureBytes(typeMemory, dimm, "DIMM_A1", "Samsung", "M1", "PN")...)
	b = append(b, structureBytes(typeMemory, slot)...)
	b = append(b, structureBytes(typeIPMI, make([]byte, 12))...)
	return append(b, structureBytes(typeEnd, nil)...)
}

func TestParse(t *testing.T) {
	got, err := Parse(table())
	if err != nil {
		t.Fatal(err)
	}
	want := Tables{
		BIOS:       BIOS{Vendor: "SeaBIOS", Version: "1.16", ReleaseDate: "04/01/2014"},
		System:     System{Manufacturer: "LabCorp", Product: "LabBox", Serial: "SN12340", UUID: "00112233-4455-6677-8899-aabbccddeeff", Family: "Boxes"},
		Baseboard:  Baseboard{Manufacturer: "LabCorp", Product: "Board", Version: "A1", Serial: "B77"},
		Chassis:    Chassis{Manufacturer: "LabCorp", Type: "rack mount chassis", Serial: "C1", AssetTag: "ASSET70"},
		Processors: []Processor{{Socket: "CPU0", Manufacturer: "Intel", Version: "Xeon", MaxMHz: 3700, Cores: 320, Threads: 640}},
		Memory:     []Memory{{Locator: "DIMM_A1", Type: "DDR5", Manufacturer: "Samsung", Serial: "M1", PartNumber: "PN", SizeBytes: 64 << 30, SpeedMTs: 4800}},
		IPMI:       true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	t.Run("what came before damage is kept", func(t *testing.T) {
		b := table()
		got, err := Parse(b[:len(b)/2])
		if !errors.Is(err, ErrTable) || got.System.Serial != "SN12340" {
			t.Errorf("%+v, %v", got.System, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(table())
	f.Add([]byte{1, 4, 0, 0, 0, 0})         // a system without fields or strings
	f.Add([]byte{1, 5, 0, 0, 9, 'x', 0, 0}) // a string number that isn't there
	if b, err := os.ReadFile("/sys/firmware/dmi/tables/DMI"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := Parse(b)
		if len(got.Memory) > len(b)/4 {
			t.Error("more structures than bytes")
		}
	})
}
