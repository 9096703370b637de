package debian

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeTar makes an archive as mmdebstrap does: names start with "./".
func writeTar(t *testing.T, file string, entries []tar.Header, content string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readTar(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	out := map[string]string{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[h.Name]; twice {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		out[h.Name] = string(b) + h.Linkname
	}
}

func TestDisk_addOverlay(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.tar")
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	folder := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
	}
	writeTar(t, base, []tar.Header{
		folder("./"), folder("./boot/"), reg("./boot/vmlinuz-6.1.0-1-cloud-amd64"), folder("./etc/"), reg("./etc/fstab"),
		reg("./etc/hosts"), folder("./etc/ssh/"), reg("./etc/ssh/ssh_host_ed25519_key"), folder("./var/log/apt/"), reg("./var/log/apt/term.log"),
	}, "old")
	d := disk{work: dir, rootUUID: "11111111-2222-8333-8444-555555555555"}
	c, err := d.addOverlay(base)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.kernel, "6.1.0-1-cloud-amd64"; got != want {
		t.Errorf("kernel is %q, want %q", got, want)
	}
	got := readTar(t, filepath.Join(dir, "root.tar"))
	if want := "UUID=" + d.rootUUID + " / ext4 defaults,x-systemd.growfs 0 1\n"; got["./etc/fstab"] != want {
		t.Errorf("fstab is %q, want %q", got["./etc/fstab"], want)
	}
	if got["./etc/hosts"] != "old" {
		t.Error("a file that nothing replaces is gone")
	}
	for name := range got {
		if strings.Contains(name, "ssh_host") || strings.HasSuffix(name, "term.log") {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range []string{"./var/log/apt/", "./etc/cloud/cloud.cfg.d/10_image.cfg", "./etc/cloud/cloud.cfg.d/", "./boot/grub/grub.cfg", "./etc/machine-id"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if got, want := got["./etc/resolv.conf"], "/run/systemd/resolve/stub-resolv.conf"; got != want {
		t.Errorf("resolv.conf leads to %q, want %q", got, want)
	}
}

func TestDisk_addOverlay_withoutKernel(t *testing.T) {
	dir := t.TempDir()
	writeTar(t, filepath.Join(dir, "base.tar"), []tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}}, "")
	if _, err := (disk{work: dir}).addOverlay(filepath.Join(dir, "base.tar")); err == nil || !strings.Contains(err.Error(), "no kernel") {
		t.Errorf("error is %v", err)
	}
}

func TestPatchCore(t *testing.T) {
	core, err := patchCore(make([]byte, 3*sector-10), 2048, 2048)
	if err != nil {
		t.Fatal(err)
	}
	got := []uint64{uint64(len(core)), binary.LittleEndian.Uint64(core[0x1f4:]), uint64(binary.LittleEndian.Uint16(core[0x1fc:])), uint64(binary.LittleEndian.Uint16(core[0x1fe:]))}
	if d := cmp.Diff([]uint64{3 * sector, 2049, 2, 0x820}, got); d != "" {
		t.Errorf("length, place, sectors, segment (-want +got):\n%s", d)
	}
	if _, err := patchCore(make([]byte, 5*sector), 2048, 4); err == nil {
		t.Error("a core image larger than its partition was taken")
	}
}

func TestPatchBoot(t *testing.T) {
	boot, mbr := bytes.Repeat([]byte{1}, sector), bytes.Repeat([]byte{2}, sector)
	got, err := patchBoot(boot, mbr, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if got[0] != 1 || got[0x1b7] != 1 || got[0x1b8] != 2 || got[511] != 2 {
		t.Error("code and partition table are mixed up")
	}
	if got := binary.LittleEndian.Uint64(got[0x5c:]); got != 2048 {
		t.Errorf("core image is sought at %d, want 2048", got)
	}
	if boot[0x64] != 1 {
		t.Error("the caller's boot sector was changed")
	}
	if _, err := patchBoot(boot[:100], mbr, 2048); err == nil {
		t.Error("a short boot sector was taken")
	}
}

func TestDisk_layout(t *testing.T) {
	d := disk{raw: filepath.Join(t.TempDir(), "disk.raw")}
	t.Run("without a size the content decides", func(t *testing.T) {
		got, err := d.layout(400<<20, 0)
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(630 << 20); got != want {
			t.Errorf("size is %d MiB, want %d", got>>20, want>>20)
		}
	})
	t.Run("a size that is too small says what is needed", func(t *testing.T) {
		if _, err := d.layout(400<<20, 100<<20); err == nil || !strings.Contains(err.Error(), "needs") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestConfig_withDefaults(t *testing.T) {
	for _, c := range []Config{{Out: "x.raw"}, {Out: "x.raw.zst", Level: "highest"}} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestUUIDFrom(t *testing.T) {
	a, b := uuidFrom("x", "root"), uuidFrom("x", "disk")
	if a == b || len(a) != 36 || a[14] != '8' {
		t.Errorf("UUIDs are %s and %s", a, b)
	}
}
