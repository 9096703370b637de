package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const mib = 1 << 20

// file makes a disk full of old content.
func file(t testing.TB, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xa5}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func device(t testing.TB, path string) *Device {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) Log(_, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}
func (*log) Progress(int64, int64, string, string) {}

func service(t testing.TB, change func(*Config)) step.Set {
	t.Helper()
	c := Config{
		Disks:    func(context.Context) ([]*pb.Disk, error) { return nil, nil },
		Match:    func(string, *pb.Disk) (bool, error) { return true, nil },
		Random:   rand.Reader,
		NodeWait: time.Second,
	}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s.Steps()
}

func do(t testing.TB, set step.Set, action string, with map[string]any) (map[string]any, string, error) {
	t.Helper()
	l := &log{}
	res, err := set[action].Execute(t.Context(), step.Request{With: with}, l)
	return res.Outputs, strings.Join(l.lines, "\n"), err
}

func TestDevice(t *testing.T) {
	path := file(t, 4*mib)
	d := device(t, path)
	if d.Size() != 4*mib || d.BlockSize() != 512 || d.IsBlock() {
		t.Errorf("size %d, blocks of %d", d.Size(), d.BlockSize())
	}
	want := bytes.Repeat([]byte{0xa5}, 4*mib)
	for _, w := range []struct{ off, n int }{{0, 4096}, {8192, 512}, {5, 7}, {4*mib - 512, 512}, {mib, mib}} {
		b := Aligned(w.n)
		for i := range b {
			b[i] = byte(w.off>>9 + i)
		}
		if _, err := d.WriteAt(b, int64(w.off)); err != nil {
			t.Fatal(err)
		}
		copy(want[w.off:], b)
	}
	if ok, err := d.ZeroRange(2*mib, mib); err != nil {
		t.Fatal(err)
	} else if ok {
		clear(want[2*mib : 3*mib])
	}
	if err := errors.Join(d.Sync(), d.DropCache()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4*mib)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("content differs: %v", err)
	}
	if _, err := d.WriteAt(make([]byte, 2), 4*mib-1); err == nil {
		t.Error("writing beyond the end grew the disk")
	}
	if _, err := d.ZeroRange(4*mib-512, 1024); err == nil {
		t.Error("clearing beyond the end")
	}
	if err := d.Reread(t.Context()); !errors.Is(err, ErrNoPartitions) {
		t.Errorf("Reread of a file: %v", err)
	}
}

func TestOpen_Refusals(t *testing.T) {
	if _, err := Open("/dev/null"); err == nil || !strings.Contains(err.Error(), "not a block device") {
		t.Errorf("/dev/null: %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "sdx")); err == nil || !strings.Contains(err.Error(), "disk.select finds") {
		t.Errorf("no such disk: %v", err)
	}
	if _, err := Path(""); err == nil {
		t.Error("an empty name is a disk")
	}
}

func TestSelect(t *testing.T) {
	disks := []*pb.Disk{
		{Name: "sdc", Path: "/dev/zero", SizeBytes: 800e9, Type: "hdd", Serial: "C"},
		{Name: "nvme1n1", Path: "/dev/zero", SizeBytes: 500e9, Type: "nvme", PciAddress: "0000:02:00.0", Serial: "B", Wwn: "eui.2"},
		{Name: "nvme0n1", Path: "/dev/zero", SizeBytes: 500e9, Type: "nvme", PciAddress: "0000:01:00.0", Serial: "A", Wwn: "eui.1"},
		{Name: "sdd", Path: "/dev/zero", SizeBytes: 8e9, Type: "ssd", Removable: true},
		{Name: "sde", Path: "/dev/zero", SizeBytes: 9e9, Type: "ssd", ReadOnly: true},
		{Name: "sr0", Path: "/dev/zero"},
	}
	set := service(t, func(c *Config) {
		c.Disks = func(context.Context) ([]*pb.Disk, error) { return disks, nil }
		c.Match = func(hint string, d *pb.Disk) (bool, error) {
			if hint == "broken" {
				return false, errors.New("no such field")
			}
			return d.GetType() == hint || strings.Contains(hint, "disk.removable") && d.GetRemovable(), nil
		}
	})
	for _, c := range []struct {
		name string
		with map[string]any
		want string // Name, or text of the error.
	}{
		{"the smallest, then the first by PCI address", nil, "nvme0n1"},
		{"those that the hint allows", map[string]any{"hint": "hdd"}, "sdc"},
		{"large enough", map[string]any{"min_size": "600GB"}, "sdc"},
		{"removable ones when the hint speaks of them", map[string]any{"hint": "disk.removable"}, "sdd"},
		{"none, with the reason for each", map[string]any{"hint": "tape"}, "no disk fits: sdc (800.0 GB hdd C): the hint is false; nvme1n1 (500.0 GB nvme B): the hint is false; nvme0n1 (500.0 GB nvme A): the hint is false; sdd (8.0 GB ssd): removable; sde (9.0 GB ssd): read only; sr0 (0.0 GB): no medium"},
		{"a hint that can't be evaluated", map[string]any{"hint": "broken"}, "evaluating hint for sdc: no such field"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _, err := do(t, set, "disk.select", c.with)
			got := fmt.Sprint(out["name"])
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
		})
	}
	out, _, err := do(t, set, "disk.select", nil)
	want := map[string]any{"path": "/dev/zero", "name": "nvme0n1", "serial": "A", "size": int64(500e9), "wwn": "eui.1"}
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("outputs (-want +got):\n%s%v", diff, err)
	}
}

func TestPartition(t *testing.T) {
	set := service(t, nil)
	list := []any{
		map[string]any{"name": "ESP", "size": "33MiB", "type": "esp"},
		map[string]any{"label": "data", "size": float64(10 * mib), "uuid": "0FC63DAF-8483-4772-8E79-3D69D8477DE5"},
		map[string]any{"type": "root-x86_64", "bootable": true},
	}
	t.Run("a GPT, twice", func(t *testing.T) {
		path := file(t, 100*mib+512*3)
		for range 2 {
			out, _, err := do(t, set, "disk.partition", map[string]any{"disk": path, "partitions": list})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]any{path + "1", path + "2", path + "3"}, out["partitions"]); diff != "" {
				t.Error(diff)
			}
		}
		d := device(t, path)
		parts, err := Parts(d, d.Size(), 512)
		if err != nil || len(parts) != 3 {
			t.Fatalf("%v, %v", parts, err)
		}
		if parts[0].Label != "ESP" || parts[0].Offset != mib || parts[0].Length != 33*mib {
			t.Errorf("first: %v", parts[0])
		}
		if parts[1].ID.String() != "0fc63daf-8483-4772-8e79-3d69d8477de5" || parts[1].Offset != 34*mib {
			t.Errorf("second: %v", parts[1])
		}
		if parts[2].Attributes != legacyBoot || parts[2].Offset+parts[2].Length != 99*mib {
			t.Errorf("third: %v at %d, %d bytes", parts[2], parts[2].Offset, parts[2].Length)
		}
		if out, err := exec.Command("sgdisk", "-v", path).CombinedOutput(); err == nil && !strings.Contains(string(out), "No problems found") {
			t.Errorf("sgdisk: %s", out)
		}
	})
	t.Run("an MBR", func(t *testing.T) {
		path := file(t, 64*mib)
		_, _, err := do(t, set, "disk.partition", map[string]any{"disk": path, "table": "mbr", "partitions": []any{
			map[string]any{"size": "20M", "type": "swap"}, map[string]any{"type": "0x0c", "bootable": true},
		}})
		if err != nil {
			t.Fatal(err)
		}
		d := device(t, path)
		parts, err := Parts(d, d.Size(), 512)
		if err != nil || len(parts) != 2 || parts[0].MBRType != 0x82 || !parts[1].Bootable || parts[1].Offset+parts[1].Length != 64*mib {
			t.Errorf("%v, %v", parts, err)
		}
	})
	for name, c := range map[string]struct {
		with map[string]any
		want string
	}{
		"too large":         {map[string]any{"partitions": []any{map[string]any{"size": "70MiB"}}}, "partition 1 wants 70 MiB, but 62 MiB are free"},
		"no room":           {map[string]any{"partitions": []any{map[string]any{"size": "62MiB"}, map[string]any{}}}, "partition 2 wants 1 MiB, but 0 MiB are free"},
		"a gap in sizes":    {map[string]any{"partitions": []any{map[string]any{}, map[string]any{}}}, "item 0: with.size: only the last"},
		"five in an MBR":    {map[string]any{"table": "mbr", "partitions": []any{map[string]any{"size": 1}, map[string]any{"size": 1}, map[string]any{"size": 1}, map[string]any{"size": 1}, map[string]any{"size": 1}}}, "1 to 4 partitions, not 5"},
		"no such type":      {map[string]any{"partitions": []any{map[string]any{"type": "ext4"}}}, `"ext4" is no partition type`},
		"a type of the MBR": {map[string]any{"partitions": []any{map[string]any{"type": "0x83"}}}, "doesn't exist in a table of kind gpt"},
		"a wrong UUID":      {map[string]any{"partitions": []any{map[string]any{"uuid": "x"}}}, "not a GUID"},
		"unknown field":     {map[string]any{"partitions": []any{map[string]any{"flags": "x"}}}, "item 0: with.flags: this action has no such input"},
		"a long label":      {map[string]any{"partitions": []any{map[string]any{"label": strings.Repeat("x", 40)}}}, "longer than 36"},
	} {
		t.Run(name, func(t *testing.T) {
			path := file(t, 64*mib)
			c.with["disk"] = path
			_, _, err := do(t, set, "disk.partition", c.with)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v\nwant one with %q", err, c.want)
			}
			if b, rerr := os.ReadFile(path); rerr != nil || b[0] != 0xa5 {
				t.Errorf("the disk was touched: %v", rerr)
			}
		})
	}
}

// partitioned is a disk with an ESP, a small and a large Linux file system.
func partitioned(t testing.TB) string {
	t.Helper()
	path := file(t, mib)
	if err := os.Truncate(path, 128*mib); err != nil {
		t.Fatal(err)
	}
	_, _, err := do(t, service(t, nil), "disk.partition", map[string]any{"disk": path, "partitions": []any{
		map[string]any{"name": "EFI", "size": "34MiB", "type": "esp"},
		map[string]any{"name": "boot", "size": "16MiB"},
		map[string]any{"name": "system", "size": "40MiB"},
		map[string]any{"name": "spare"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// mkfsAt makes a file system at an offset of a file.
func mkfsAt(t testing.TB, path string, offset, length int64, args ...string) {
	t.Helper()
	part := file(t, mib)
	if err := os.Truncate(part, length); err != nil {
		t.Fatal(err)
	}
	tool, err := look(args[0])
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	if out, err := exec.Command(tool, append(args[1:], part)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args[0], err, out)
	}
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(b, offset)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	path := partitioned(t)
	mkfsAt(t, path, mib, 34*mib, "mkfs.vfat", "-n", "BOOTFS")
	mkfsAt(t, path, 35*mib, 16*mib, "mkfs.ext4", "-q", "-F", "-L", "bootfs")
	mkfsAt(t, path, 51*mib, 40*mib, "mkfs.ext4", "-q", "-F", "-L", "rootfs", "-U", "11111111-2222-3333-4444-555555555555")
	d := device(t, path)
	parts, err := Parts(d, d.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	if c := parts[2].Content; c.Type != "ext4" || c.Label != "rootfs" || c.UUID != "11111111-2222-3333-4444-555555555555" {
		t.Errorf("content of partition 3 = %+v", c)
	}
	if c := parts[0].Content; c.Type != "vfat" || c.Label != "BOOTFS" {
		t.Errorf("content of partition 1 = %+v", c)
	}
	for word, want := range map[string]int{"root": 3, "": 3, "2": 2, "EFI": 1, "esp": 1, "bootfs": 2, "spare": 4} {
		if p, err := Find(parts, word, 0); err != nil || p.Number != want {
			t.Errorf("Find(%q) = %v, %v; want %d", word, p, err, want)
		}
	}
	if p, err := Find(parts, "root", 2); err != nil || p.Number != 2 {
		t.Errorf("the image's own root partition: %v, %v", p, err)
	}
	for word, want := range map[string]string{
		"9": "there is no partition 9; there are 1: esp, 34 MiB, label \"EFI\", vfat \"BOOTFS\"; 2: linux", "linux": "3 partitions are called so", "home": `there is no partition "home"`,
	} {
		if _, err := Find(parts, word, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Find(%q): %v\nwant %q", word, err, want)
		}
	}
	if _, err := Find(parts[3:], "root", 0); err == nil || !strings.Contains(err.Error(), "no partition has a Linux file system") {
		t.Errorf("no root: %v", err)
	}
}

func TestFormat(t *testing.T) {
	for kind, min := range map[string]int{"ext4": 16, "xfs": 320, "vfat": 34, "swap": 2} {
		t.Run(kind, func(t *testing.T) {
			path := file(t, mib)
			if err := os.Truncate(path, int64(min)*mib); err != nil {
				t.Fatal(err)
			}
			if _, err := look(makers[kind].args[0]); err != nil {
				t.Skipf("SKIPPED: %v", err)
			}
			out, text, err := do(t, service(t, nil), "disk.format", map[string]any{"device": path, "type": kind, "label": "STORE"})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			d := device(t, path)
			s, ok, err := FileSystem(d, d.Size())
			if err != nil || !ok || s.Type != kind || s.Label != "STORE" || s.UUID == "" || s.UUID != out["uuid"] {
				t.Errorf("%+v, %v; outputs %v", s, err, out)
			}
		})
	}
	path := file(t, mib)
	failing := service(t, func(c *Config) {
		c.Run = func(_ context.Context, args []string, line func(string, string)) error {
			line(step.Stderr, "mkfs.ext4: device is too small")
			return exec.Command("/bin/sh", "-c", "exit 7").Run()
		}
	})
	res, err := failing["disk.format"].Execute(t.Context(), step.Request{With: map[string]any{"device": path, "type": "ext4"}}, &log{})
	if err == nil || !strings.Contains(err.Error(), "exit status 7: mkfs.ext4: device is too small") || res.ExitCode == nil || *res.ExitCode != 7 || len(res.LastOutput) != 1 {
		t.Errorf("failing mkfs: %v, %+v", err, res)
	}
	for want, with := range map[string]map[string]any{
		`with.type: "ntfs" is none of`: {"device": path, "type": "ntfs"},
		"with.label":                   {"device": path, "type": "vfat", "label": "longer than eleven"},
		"with.device: is required":     {"type": "vfat"},
	} {
		if _, _, err := do(t, service(t, nil), "disk.format", with); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q", err, want)
		}
	}
	if err := run(t.Context(), []string{"mkfs.nonsense"}, nil); err == nil || !strings.Contains(err.Error(), "mkfs.nonsense isn't in the agent's system") {
		t.Errorf("missing program: %v", err)
	}
}

func TestRun(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	err := run(t.Context(), []string{"sh", "-c", "echo out; echo err >&2; printf unended; exit 3"}, func(stream, text string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, stream+":"+text)
	})
	if code := exitCode(err); code == nil || *code != 3 || len(lines) != 3 {
		t.Errorf("%v, %q", err, lines)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go cancel(errors.New("enough"))
	if err := run(ctx, []string{"sleep", "60"}, func(string, string) {}); err == nil || err.Error() != "enough" {
		t.Errorf("cancelled: %v", err)
	}
}

func TestWipe(t *testing.T) {
	for _, method := range []string{"signatures", "discard", "zero", "auto"} {
		t.Run(method, func(t *testing.T) {
			path := partitioned(t)
			mkfsAt(t, path, mib, 34*mib, "mkfs.vfat")
			mkfsAt(t, path, 35*mib, 16*mib, "mkfs.ext4", "-q", "-F")
			mkfsAt(t, path, 51*mib, 40*mib, "mkfs.ext4", "-q", "-F")
			out, text, err := do(t, service(t, nil), "disk.wipe", map[string]any{"disk": path, "method": method})
			if err != nil {
				t.Fatal(err)
			}
			if want := map[string]string{"auto": "discard"}[method]; out["method"] != method && out["method"] != want {
				t.Errorf("outputs = %v", out)
			}
			if !strings.Contains(text, "cleared partition 3: linux, 40 MiB, label \"system\", ext4") {
				t.Errorf("log = %s", text)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			zeros := make([]byte, ends)
			for _, at := range []int{0, 35 * mib, 51 * mib, 128*mib - ends} {
				if !bytes.Equal(b[at:at+ends], zeros) {
					t.Errorf("content is left at %d MiB", at/mib)
				}
			}
			if method == "zero" && !bytes.Equal(b, make([]byte, len(b))) {
				t.Error("content is left")
			}
		})
	}
	t.Run("several disks, none touched when one is missing", func(t *testing.T) {
		a, b := file(t, mib), file(t, mib)
		set := service(t, nil)
		if _, _, err := do(t, set, "disk.wipe", map[string]any{"disks": []any{a, b + "x"}}); err == nil {
			t.Error("no error")
		}
		if got, err := os.ReadFile(a); err != nil || got[0] != 0xa5 {
			t.Errorf("the first disk was touched: %v", err)
		}
		out, _, err := do(t, set, "disk.wipe", map[string]any{"disks": []any{a, b}, "method": "zero"})
		if err != nil || out["bytes"] != int64(2*mib) || out["method"] != "zero" {
			t.Errorf("%v, %v", out, err)
		}
	})
	if _, _, err := do(t, service(t, nil), "disk.wipe", nil); err == nil || !strings.Contains(err.Error(), "wants 1 to 64 disks") {
		t.Errorf("no disk: %v", err)
	}
}

func TestSignatures_Foreign(t *testing.T) {
	size := int64(64 * mib)
	put := func(off int64, s string) []byte {
		b := make([]byte, size)
		copy(b[off:], s)
		return b
	}
	lvm := put(512, "LABELONE")
	copy(lvm[512+24:], "LVM2 001")
	for want, b := range map[string][]byte{
		"LVM2_member":       lvm,
		"linux_raid_member": put((size-8192)&^4095, "\xfc\x4e\x2b\xa9"),
		"zfs_member":        put(size-256<<10+128<<10+1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00"),
		"crypto_LUKS":       put(0x4000, "SKUL\xba\xbe"),
		"ddf_raid_member":   put(size-512, "\xde\x11\xde\x11"),
		"btrfs":             put(0x10040, "_BHRfS_M"),
		"gpt_backup":        put(size-512, "EFI PART"),
	} {
		got, err := Signatures(bytes.NewReader(b), size)
		if err != nil || len(got) != 1 || got[0].Type != want {
			t.Errorf("%s: %+v, %v", want, got, err)
		}
	}
}

func TestUsers(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/devices/sda/sda1/partition", "1")
	write("sys/devices/sda/sda1/dev", "8:1\n")
	write("sys/devices/sda/sda2/partition", "2")
	write("sys/devices/sda/sda2/dev", "8:2\n")
	write("sys/devices/sda/sda2/holders/dm-0", "")
	if err := os.MkdirAll(filepath.Join(root, "sys/dev/block"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"8:0": "sda", "8:1": "sda/sda1", "8:2": "sda/sda2"} {
		if err := os.Symlink("../../devices/"+to, filepath.Join(root, "sys/dev/block", link)); err != nil {
			t.Fatal(err)
		}
	}
	write("proc/self/mountinfo", "22 1 8:1 / /mnt rw - ext4 /dev/sda1 rw\n23 1 8:17 / /other rw - ext4 /dev/sdb1 rw\n")
	write("proc/swaps", "Filename Type\n/dev/sda2 partition 1 0 -2\n")
	names, err := namesOf(root+"/sys", "8:0")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range []func() ([]string, error){
		func() ([]string, error) { return mounts(root+"/proc", names) },
		func() ([]string, error) { return swaps(root+"/proc", names) },
		func() ([]string, error) { return holders(root+"/sys", names) },
	} {
		users, err := f()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, users...)
	}
	if diff := cmp.Diff([]string{"sda1 is mounted at /mnt", "sda2 is in use as swap", "sda2 is held by dm-0"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestNode(t *testing.T) {
	for disk, want := range map[string]string{"/dev/sda": "/dev/sda3", "/dev/nvme0n1": "/dev/nvme0n1p3", "/dev/mmcblk0": "/dev/mmcblk0p3"} {
		if got := Node(disk, 3); got != want {
			t.Errorf("Node(%s) = %s", disk, got)
		}
	}
	err := WaitNode(t.Context(), "/nonexistent/sda1", time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/sda1 didn't appear within 1ms") {
		t.Errorf("WaitNode = %v", err)
	}
}

func FuzzSignatures(f *testing.F) {
	ext := make([]byte, 4096)
	ext[1024+0x38], ext[1024+0x39] = 0x53, 0xef // An ext2 superblock's magic.
	f.Add(ext)
	fat := make([]byte, 512)
	copy(fat[0x36:], "FAT16   ")
	fat[510], fat[511] = 0x55, 0xaa
	f.Add(fat)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Signatures(bytes.NewReader(data), int64(len(data))); err != nil {
			t.Fatal(err)
		}
		_, _ = Parts(bytes.NewReader(data), int64(len(data)), 512)
	})
}
