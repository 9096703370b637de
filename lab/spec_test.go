package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadSpec(t *testing.T) {
	good, err := filepath.Glob("testdata/*.good.yaml")
	if err != nil || len(good) == 0 {
		t.Fatalf("no definitions to read: %v", err)
	}
	for _, file := range good {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if _, err := readFile(t, file); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReadSpec_bad wants of each file the message in its first line.
func TestReadSpec_bad(t *testing.T) {
	bad, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(bad) == 0 {
		t.Fatalf("no definitions to read: %v", err)
	}
	for _, file := range bad {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(b), "\n")
			want := strings.TrimPrefix(first, "# ")
			if _, err := readFile(t, file); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error is %v, want %q in it", err, want)
			}
		})
	}
}

func readFile(t *testing.T, name string) (Spec, error) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	s, err := ReadSpec(f)
	if err != nil {
		return s, err
	}
	return s.complete()
}

func TestSpec_complete(t *testing.T) {
	got, err := Spec{Machines: []MachineSpec{{}, {Firmware: UEFI, Disks: []DiskSpec{}}}}.complete()
	if err != nil {
		t.Fatal(err)
	}
	want := Spec{
		Name: "lab", Accelerator: "auto", Networks: []Network{{Name: "br0", Address: "10.77.0.1/24"}},
		Machines: []MachineSpec{
			{
				Name: "m1", Firmware: BIOS, CPUs: 1, Memory: 1 << 30, Disks: []DiskSpec{{Bus: "virtio", Size: 4 << 30}}, Network: "br0",
				MAC: "52:54:00:77:00:01", UUID: got.Machines[0].UUID, Serial: "LAB-0001", Boot: []string{"network", "disk"}, NIC: "virtio", Power: "off", BMC: BMCSpec{Address: "10.77.0.201", Username: "admin", Password: FactoryPassword("LAB-0001"), Protocols: []string{"redfish", "ipmi"}},
			},
			{
				Name: "m2", Firmware: UEFI, CPUs: 1, Memory: 1 << 30, Disks: []DiskSpec{}, Network: "br0",
				MAC: "52:54:00:77:00:02", UUID: got.Machines[1].UUID, Serial: "LAB-0002", Boot: []string{"network", "disk"}, NIC: "virtio", Power: "off", BMC: BMCSpec{Address: "10.77.0.202", Username: "admin", Password: FactoryPassword("LAB-0002"), Protocols: []string{"redfish", "ipmi"}},
			},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("defaults (-want +got):\n%s", d)
	}
	if got.Machines[0].UUID == got.Machines[1].UUID || len(got.Machines[0].UUID) != 36 {
		t.Errorf("UUIDs are %s and %s", got.Machines[0].UUID, got.Machines[1].UUID)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Size{"512M": 512 << 20, "8G": 8 << 30, "1024": 1024, "2GiB": 2 << 30, "1t": 1 << 40, "0": 0} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "G", "-1", "1.5G", "9999999T", "8X", "é"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
	for in, want := range map[Size]string{8 << 30: "8G", 1536 << 20: "1536M", 1000: "1000", 1 << 40: "1T"} {
		if got := in.String(); got != want {
			t.Errorf("%d is %q, want %q", in, got, want)
		}
	}
}
