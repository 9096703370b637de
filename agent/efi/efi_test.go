package efi

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/agent/step"
)

// debian is a boot option laid out by hand from §3.1.3 and §10.3.5: partition
// 15, GPT, \EFI\debian\shimx64.efi.
var debian = strings.Join([]string{
	"01000000", "6200", // Active; a path of 98 bytes.
	"640065006200690061006e000000",                                 // "debian"
	"04012a00", "0f000000", "0008000000000000", "00f0030000000000", // HD(15, start 0x800, 0x3f000 blocks,
	"af3dc60f838472478e793d69d8477de4", "0202", // GPT signature)
	"04043400", "5c004500460049005c00640065006200690061006e005c007300680069006d007800360034002e006500660069000000",
	"7fff0400",
}, "")

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOption(t *testing.T) {
	raw := unhex(t, debian)
	o, err := ParseOption(raw)
	if err != nil {
		t.Fatal(err)
	}
	id, err := partition.ParseGUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
	if err != nil {
		t.Fatal(err)
	}
	want := Option{Attributes: 1, Label: "debian", Loader: `\EFI\debian\shimx64.efi`,
		Drive: HardDrive{Number: 15, Start: 0x800, Blocks: 0x3f000, Signature: id, Format: 2, Kind: 2}}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := o.Append(nil); !bytes.Equal(got, raw) {
		t.Errorf("written again:\n%x\nwant\n%x", got, raw)
	}
	for _, bad := range [][]byte{nil, raw[:7], raw[:20], append(bytes.Clone(raw[:4]), 0xff, 0xff, 0, 0)} {
		if _, err := ParseOption(bad); !errors.Is(err, errOption) {
			t.Errorf("ParseOption(%x): %v", bad, err)
		}
	}
}

func FuzzParseOption(f *testing.F) {
	f.Add(unhex(f, debian))
	f.Add(unhex(f, "0100000004004100000"+"07fff0400aabb")) // "A", an end node, two bytes of data.
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOption(b)
		if err != nil {
			return
		}
		again, err := ParseOption(o.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(o, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

type log struct{ lines []string }

func (l *log) Log(_, line string)                  { l.lines = append(l.lines, line) }
func (*log) Progress(int64, int64, string, string) {}

// esp is a mounted EFI system partition.
type esp struct {
	files  []string
	closed *int
}

func (e esp) Exists(path string) bool {
	for _, f := range e.files {
		if strings.EqualFold(f, path) {
			return true
		}
	}
	return false
}

func (e esp) Close() error { *e.closed++; return nil }

// machine is a disk with an ESP, and firmware variables.
type machine struct {
	dir, disk string
	files     []string
	closed    int
	log       log
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir(), disk: filepath.Join(t.TempDir(), "disk"), files: []string{"/EFI/BOOT/BOOTX64.EFI", "/EFI/debian/grubx64.efi", "/EFI/debian/shimx64.efi"}}
	const size = 8 << 20
	g, err := partition.NewGPT(partition.RandomGUID([16]byte{1}), 512, size/512)
	if err != nil {
		t.Fatal(err)
	}
	for n, kind := range map[int]partition.GUID{1: partition.TypeLinux, 15: partition.TypeEFI} {
		if err := g.Set(partition.Partition{Number: n, Type: kind, ID: partition.RandomGUID([16]byte{byte(n)}), Start: uint64(n) * 512, Blocks: 2048}); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, size)
	partition.PutProtective(b, size/512)
	h, e := g.Primary()
	copy(b[512:], h)
	copy(b[1024:], e)
	fat := b[15*512*512:]
	copy(fat[0x52:], "FAT32   ")
	fat[510], fat[511] = 0x55, 0xaa
	if err := os.WriteFile(m.disk, b, 0o600); err != nil {
		t.Fatal(err)
	}
	m.set(t, "Boot0000", unhex(t, "0100000004004e0000007fff0400")) // "N", the network, say.
	m.set(t, "Boot0004", unhex(t, debian))
	m.set(t, "BootOrder", []byte{4, 0, 0, 0})
	return m
}

func (m *machine) set(t testing.TB, name string, value []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name+global), append([]byte{7, 0, 0, 0}, value...), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) order(t testing.TB) []uint16 {
	t.Helper()
	o, err := variables{m.dir}.order()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (m *machine) do(t testing.TB, with map[string]any) (string, error) {
	t.Helper()
	s, err := New(Config{Variables: m.dir, Architecture: "amd64", Mount: func(_ context.Context, _, partition string) (Files, error) {
		if partition != "15" {
			t.Errorf("mounted partition %s", partition)
		}
		return esp{m.files, &m.closed}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if with["disk"] == nil {
		with["disk"] = m.disk
	}
	res, err := s.Steps()["efi.boot-entry"].Execute(t.Context(), step.Request{With: with}, &m.log)
	entry, _ := res.Outputs["entry"].(string)
	return entry, err
}

func TestBootEntry(t *testing.T) {
	t.Run("a new entry comes last, and once", func(t *testing.T) {
		m := newMachine(t)
		for range 2 {
			entry, err := m.do(t, map[string]any{})
			if err != nil || entry != "Boot0001" {
				t.Fatalf("%s, %v", entry, err)
			}
			if diff := cmp.Diff([]uint16{4, 0, 1}, m.order(t)); diff != "" {
				t.Error(diff)
			}
		}
		options, err := variables{m.dir}.options()
		if err != nil || len(options) != 3 {
			t.Fatalf("%v, %v", options, err)
		}
		o := options[1]
		if o.Label != "Bedplate" || o.Loader != `\EFI\debian\shimx64.efi` || o.Drive.Number != 15 || o.Drive.Start != 15*512 || o.Drive.Kind != formatGPT || o.Attributes != active {
			t.Errorf("option = %+v", o)
		}
		if m.closed != 2 {
			t.Errorf("the partition was given back %d times of 2", m.closed)
		}
	})
	t.Run("one with the same label is replaced and moves first", func(t *testing.T) {
		m := newMachine(t)
		m.set(t, "Boot0007", unhex(t, debian))
		entry, err := m.do(t, map[string]any{"label": "debian", "order": "first", "loader": `\efi\boot\bootx64.efi`})
		if err != nil || entry != "Boot0004" {
			t.Fatalf("%s, %v", entry, err)
		}
		if diff := cmp.Diff([]uint16{4, 0}, m.order(t)); diff != "" {
			t.Error(diff)
		}
		if _, err := os.Stat(filepath.Join(m.dir, "Boot0007"+global)); err == nil {
			t.Error("the second entry of that label is still there")
		}
	})
	t.Run("others that lead to a disk go when that is asked for", func(t *testing.T) {
		m := newMachine(t)
		entry, err := m.do(t, map[string]any{"remove_others": true})
		if err != nil || entry != "Boot0001" {
			t.Fatalf("%s, %v", entry, err)
		}
		if diff := cmp.Diff([]uint16{0, 1}, m.order(t)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("without shim it is GRUB, then the fallback", func(t *testing.T) {
		m := newMachine(t)
		for want, files := range map[string][]string{
			`\EFI\debian\grubx64.efi`: {"/EFI/BOOT/BOOTX64.EFI", "/EFI/debian/grubx64.efi"},
			`\EFI\BOOT\BOOTX64.EFI`:   {"/EFI/BOOT/BOOTX64.EFI"},
		} {
			m.files = files
			if _, err := m.do(t, map[string]any{}); err != nil {
				t.Fatal(err)
			}
			options, err := variables{m.dir}.options()
			if err != nil || options[1].Loader != want {
				t.Errorf("loader = %s, %v; want %s", options[1].Loader, err, want)
			}
		}
	})
	t.Run("BIOS is no failure", func(t *testing.T) {
		m := newMachine(t)
		m.dir = filepath.Join(m.dir, "nothing")
		entry, err := m.do(t, map[string]any{})
		if err != nil || entry != "" || !strings.Contains(strings.Join(m.log.lines, ""), "started by BIOS") {
			t.Errorf("%s, %v, %q", entry, err, m.log.lines)
		}
	})
	for name, c := range map[string]struct {
		with map[string]any
		want string
	}{
		"no such loader":     {map[string]any{"loader": "/EFI/x.efi"}, "it has no file /EFI/x.efi"},
		"no ESP there":       {map[string]any{"partition": 1}, "so firmware can't read it"},
		"no such partition":  {map[string]any{"partition": "9"}, "there is no partition 9"},
		"no such place":      {map[string]any{"order": "second"}, `"second" is none of last, first`},
		"a label too long":   {map[string]any{"label": strings.Repeat("x", 121)}, "longer than 120"},
		"a disk that is not": {map[string]any{"disk": "/nonexistent/sda"}, "disk.select finds"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newMachine(t).do(t, c.with); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %q", err, c.want)
			}
		})
	}
	t.Run("an unmounted efivarfs is told from BIOS", func(t *testing.T) {
		m := newMachine(t)
		m.dir = t.TempDir()
		if _, err := m.do(t, map[string]any{}); err == nil || !strings.Contains(err.Error(), "efivarfs isn't mounted") {
			t.Errorf("error = %v", err)
		}
	})
}
