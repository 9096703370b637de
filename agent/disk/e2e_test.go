package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// loop makes a block device of a file full of old content.
func loop(t testing.TB, size int, options ...string) string {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to work on loop devices")
	}
	out, err := exec.Command("losetup", append(append([]string{"-f", "--show"}, options...), file(t, size))...).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %v\n%s", err, out)
		}
	})
	return dev
}

func TestE2E_BlockDevice(t *testing.T) {
	for _, options := range [][]string{nil, {"-b", "4096"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			path := loop(t, 64*mib, options...)
			d, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if !d.IsBlock() || d.Size() != 64*mib || options != nil && d.BlockSize() != 4096 {
				t.Errorf("block %v, %d bytes in blocks of %d", d.IsBlock(), d.Size(), d.BlockSize())
			}
			b := Aligned(mib)
			for i := range b {
				b[i] = 7
			}
			if _, err := d.WriteAt(b, mib); err != nil || d.noDirect.Load() || d.direct == nil {
				t.Errorf("direct write: %v, refused: %v", err, d.noDirect.Load())
			}
			ok, err := d.ZeroRange(4*mib, 2*mib)
			if err != nil || !ok {
				t.Errorf("clearing by the device: %v, %v", ok, err)
			}
			if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "busy") {
				t.Errorf("opening a second time: %v", err)
			}
			got := make([]byte, 8*mib)
			if _, err := d.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if got[0] != 0xa5 || !bytes.Equal(got[mib:2*mib], b) || !bytes.Equal(got[4*mib:6*mib], make([]byte, 2*mib)) || got[6*mib] != 0xa5 {
				t.Error("content differs")
			}
			if err := errors.Join(d.Sync(), d.DropCache(), d.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestE2E_Actions(t *testing.T) {
	path := loop(t, 64*mib)
	set := service(t, nil)
	out, text, err := do(t, set, "disk.format", map[string]any{"device": path, "type": "ext4", "label": "here"})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if out["uuid"] == "" {
		t.Error("no uuid")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", path, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	for action, with := range map[string]map[string]any{
		"disk.wipe": {"disk": path}, "disk.format": {"device": path, "type": "swap"},
		"disk.partition": {"disk": path, "partitions": []any{map[string]any{}}},
	} {
		_, _, err := do(t, set, action, with)
		if err == nil || !strings.Contains(err.Error(), "is mounted at "+dir) {
			t.Errorf("%s of a mounted disk: %v", action, err)
		}
	}
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
	for _, method := range []string{"auto", "discard", "zero"} {
		if out, _, err := do(t, set, "disk.wipe", map[string]any{"disk": path, "method": method}); err != nil {
			t.Errorf("%s: %v, %v", method, out, err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(b, make([]byte, 64*mib)) {
		t.Errorf("content is left: %v", err)
	}
}
