package efi

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/step"
)

// Boot options laid out by hand (§3.1.3, §10.3): "PXE" through PCI and a MAC
// address, "Setup" from the firmware's own volume, "Disk" on a SATA port as the
// firmware makes it, "Full" with the whole way to a partition.
const (
	pxe   = "01000000 3500 500058004500 0000 02010c00d041030a00000000 01010600 0001 030b2500 525400770001 00000000000000000000000000000000000000000000000000000000000000 7fff0400"
	setup = "01000000 1800 5300 0000 04061400 00112233445566778899aabbccddeeff 7fff0400"
	sata  = "01000000 0e00 4400 0000 03120a00 0000 ffff 0000 7fff0400"
	full  = "01000000 3800 4600 0000 03120a00 0000 ffff 0000 04012a00 01000000 0008000000000000 0000100000000000 af3dc60f838472478e793d69d8477de4 0202 7fff0400"
)

// option fills in the length of the path, which is counted here.
func option(t testing.TB, s string) []byte {
	t.Helper()
	b := unhex(t, strings.ReplaceAll(s, " ", ""))
	_, rest, ok := cutString(b[6:])
	if !ok {
		t.Fatal("no label")
	}
	binary.LittleEndian.PutUint16(b[4:], uint16(len(rest)))
	return b
}

func (m *machine) put(t testing.TB, file string, value []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, file), append([]byte{7, 0, 0, 0}, value...), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) reset(t testing.TB) (map[string]any, error) {
	t.Helper()
	s, err := New(Config{Variables: m.dir, Mount: func(context.Context, string, string) (Files, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Steps()["firmware.reset"].Execute(t.Context(), step.Request{}, &m.log)
	return res.Outputs, err
}

func TestReset(t *testing.T) {
	m := &machine{dir: t.TempDir()}
	for name, value := range map[string][]byte{
		"Boot0000": option(t, setup), "Boot0001": unhex(t, debian), "Boot0002": option(t, sata), "Boot0003": option(t, pxe), "Boot0004": option(t, full),
		"BootOrder": {1, 0, 2, 0, 0, 0, 3, 0, 4, 0, 9, 0, 2, 0}, "BootNext": {1, 0},
		"Driver0000": unhex(t, debian), "DriverOrder": {0, 0}, "OsIndications": {1, 0, 0, 0, 0, 0, 0, 0}, "Timeout": {3, 0},
	} {
		m.set(t, name, value)
	}
	// Two keys of 20 bytes each (owner and certificate), where the distribution has one.
	keys := make([]byte, 28+2*20)
	binary.LittleEndian.PutUint32(keys[16:], uint32(len(keys)))
	binary.LittleEndian.PutUint32(keys[24:], 20)
	m.put(t, "MokListRT"+shim, keys)
	m.put(t, "MokNew"+shim, []byte{1})
	m.put(t, "LoaderSystemToken"+bootLoader, []byte{1})
	if err := os.WriteFile(filepath.Join(m.dir, "LoaderInfo"+bootLoader), []byte{6, 0, 0, 0, 1}, 0o600); err != nil { // of this boot alone
		t.Fatal(err)
	}
	out, err := m.reset(t)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"firmware": "uefi", "mok_keys": int64(1),
		"removed": []any{"BootNext", "Boot0001", "Boot0004", "DriverOrder", "Driver0000", "OsIndications", "MokNew", "LoaderSystemToken"},
		"order":   []any{"Boot0003 PXE", "Boot0002 D", "Boot0000 S"},
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("outputs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]uint16{3, 2, 0}, m.order(t)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(e.Name(), global), shim), bootLoader))
	}
	if diff := cmp.Diff([]string{"Boot0000", "Boot0002", "Boot0003", "BootOrder", "LoaderInfo", "MokListRT", "Timeout"}, names); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	t.Run("a second time there is nothing to do", func(t *testing.T) {
		out, err := m.reset(t)
		if diff := cmp.Diff([]any{}, out["removed"]); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	})
	t.Run("BIOS is no failure", func(t *testing.T) {
		m := &machine{dir: filepath.Join(t.TempDir(), "nothing")}
		out, err := m.reset(t)
		if err != nil || out["firmware"] != "bios" || !strings.Contains(strings.Join(m.log.lines, ""), "started by BIOS") {
			t.Errorf("%v, %v, %q", err, out, m.log.lines)
		}
	})
}

func FuzzReset(f *testing.F) {
	for _, s := range []string{pxe, setup, sata, full} {
		f.Add(option(f, s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		if o, err := ParseOption(b); err == nil {
			o.obsolete()
			o.fromNetwork()
		}
		if n := countSignatures(b); n < 0 || n > len(b) {
			panic(n)
		}
	})
}
