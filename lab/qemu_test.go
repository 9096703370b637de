package lab

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestQEMUArgs(t *testing.T) {
	s, err := readFile(t, "testdata/rack.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for i, m := range s.Machines {
		fmt.Fprintf(&got, "-- %s --\n", m.Name)
		for _, a := range qemuArgs(s.Name, m, tapNames(i, m), "tcg", start{}) {
			if strings.HasPrefix(a, "-") {
				fmt.Fprintf(&got, "\n%s", a)
				continue
			}
			fmt.Fprintf(&got, " %s", a)
		}
		got.WriteString("\n\n")
	}
	const golden = "testdata/qemu.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("command lines (-want +got):\n%s", d)
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel("tcg", nil); got != "max" {
		t.Errorf("emulated processors are %q: without RDRAND Go programs in guests wait for two minutes", got)
	}
}

func TestMakeFiles(t *testing.T) {
	dir := t.TempDir()
	m := MachineSpec{Firmware: BIOS, Disks: []DiskSpec{{Size: 1 << 20}, {Size: 2 << 20}}}
	if err := makeFiles(dir, m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, diskFile(0)), []byte("installed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := makeFiles(dir, m); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, diskFile(0)))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 1<<20 || !bytes.HasPrefix(b, []byte("installed")) {
		t.Errorf("a disk that was there has %d bytes and starts with %q", len(b), b[:9])
	}
}

func TestMachine_Wipe(t *testing.T) {
	m := &Machine{dir: t.TempDir(), spec: MachineSpec{Name: "m1", Firmware: BIOS, Disks: []DiskSpec{{Size: 1 << 20}}}}
	for _, name := range []string{diskFile(0), serialLog} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Wipe(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(m.Disk(0))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 1<<20 || b[0] != 0 {
		t.Errorf("disk has %d bytes, the first %d", len(b), b[0])
	}
	if _, err := os.Stat(m.SerialLog()); err == nil {
		t.Error("the serial log is still there")
	}
	m.on.Store(true)
	if err := m.Wipe(); err == nil {
		t.Error("a machine that is on was wiped")
	}
}
