package iso

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/images/agentos"
)

// system writes a made-up agent's system.
func system(t *testing.T, seed uint64) (dir string, kernel, initramfs []byte) {
	t.Helper()
	dir = t.TempDir()
	r := rand.NewChaCha8([32]byte{byte(seed)})
	kernel, initramfs = make([]byte, 300_001), make([]byte, 700_003)
	r.Read(kernel)    //nolint:errcheck // it can't fail
	r.Read(initramfs) //nolint:errcheck // it can't fail
	var m agentos.Manifest
	for _, f := range []struct {
		name    string
		content []byte
		to      *agentos.File
	}{{agentos.KernelFile, kernel, &m.Kernel}, {agentos.InitramfsFile, initramfs, &m.Initramfs}} {
		sum := sha256.Sum256(f.content)
		*f.to = agentos.File{Name: f.name, Size: int64(len(f.content)), SHA256: hex.EncodeToString(sum[:])}
		write(t, filepath.Join(dir, f.name), f.content)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, agentos.ManifestFile), data)
	return dir, kernel, initramfs
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func build1(t *testing.T, dir string) Manifest {
	t.Helper()
	if err := checkTools(); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	m, err := Build(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBuild(t *testing.T) {
	dir, kernel, initramfs := system(t, 1)
	m := build1(t, dir)
	image, err := os.ReadFile(filepath.Join(dir, ImageFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the manifest says where everything lies", func(t *testing.T) {
		at := func(r Region) []byte { return image[r.Offset:r.End()] }
		if !bytes.Equal(at(m.Kernel), kernel) || !bytes.Equal(at(m.Initramfs), initramfs) {
			t.Error("the agent's system isn't where it should be")
		}
		if !bytes.Equal(at(m.Script), emptyScript()) || len(at(m.Script)) != scriptSize || len(at(m.Archive)) != archiveSize {
			t.Error("the machine's part isn't where it should be")
		}
	})
	t.Run("xorriso finds every way to boot it", func(t *testing.T) {
		out, err := exec.Command("xorriso", "-indev", filepath.Join(dir, ImageFile), "-report_el_torito", "plain", "-report_system_area", "plain").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"BIOS  y   none", "UEFI  y   none", "grub2-mbr", "GPT", "28732ac11ff8d211ba4b00a0c93ec93b"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q in:\n%s", want, out)
			}
		}
	})
	t.Run("the same again gives the same bytes", func(t *testing.T) {
		again, _, _ := system(t, 1)
		if diff := cmp.Diff(m, build1(t, again)); diff != "" {
			t.Errorf("manifest (-want +got):\n%s", diff)
		}
	})
	t.Run("is not built again without need", func(t *testing.T) {
		if got := build1(t, dir); !got.Cached {
			t.Error("built again")
		}
		write(t, filepath.Join(dir, ImageFile), image[:len(image)-1])
		if got := build1(t, dir); got.Cached {
			t.Error("a damaged image was taken for whole")
		}
	})
	t.Run("nothing is left over", func(t *testing.T) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if diff := cmp.Diff([]string{ImageFile, ManifestFile, agentos.InitramfsFile, agentos.ManifestFile, agentos.KernelFile}, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	})
	t.Run("without an agent's system it says so", func(t *testing.T) {
		if _, err := Build(t.Context(), Config{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "manifest of the agent system") {
			t.Errorf("error %v", err)
		}
	})
}

func TestImage(t *testing.T) {
	dir, _, initramfs := system(t, 2)
	m := build1(t, dir)
	image, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a machine's has its part in place, and nothing else changed", func(t *testing.T) {
		medium, err := image.Open(Part{Script: []byte("boot me\n"), Archive: []byte("070701")})
		if err != nil {
			t.Fatal(err)
		}
		defer medium.Close()
		got, err := io.ReadAll(medium)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(dir, ImageFile))
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			in := func(r Region) bool { return r.Offset <= int64(i) && int64(i) < r.End() }
			if want[i] != got[i] && !in(m.Script) && !in(m.Archive) {
				t.Fatalf("byte %d is changed", i)
			}
		}
		script, archive := got[m.Script.Offset:m.Script.End()], got[m.Archive.Offset:m.Archive.End()]
		if !bytes.Equal(bytes.TrimRight(script, "\n"), []byte("boot me")) || !bytes.Equal(bytes.TrimRight(archive, "\x00"), []byte("070701")) {
			t.Errorf("%.20q, %.20q", script, archive)
		}
	})
	t.Run("a part that is too long is refused", func(t *testing.T) {
		for _, p := range []Part{{Script: make([]byte, scriptSize+1)}, {Archive: make([]byte, archiveSize+1)}} {
			if _, err := image.Open(p); err == nil || Check(p) == nil {
				t.Errorf("%d and %d bytes were taken", len(p.Script), len(p.Archive))
			}
		}
	})
	missing := func(t *testing.T, err error) {
		t.Helper()
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "bedplate agentos build") {
			t.Errorf("error %v", err)
		}
	}
	t.Run("there is none", func(t *testing.T) {
		empty, _, _ := system(t, 2)
		_, err := Load(empty)
		missing(t, err)
	})
	t.Run("the agent's system beside it is another one", func(t *testing.T) {
		newer, _, _ := system(t, 3)
		for _, name := range []string{ImageFile, ManifestFile} {
			if err := os.Link(filepath.Join(dir, name), filepath.Join(newer, name)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Load(newer)
		missing(t, err)
	})
	t.Run("a manifest that is no manifest", func(t *testing.T) {
		for _, bad := range []string{"", "{}", `{"image":{"size":10},"script":{"offset":5,"size":50}}`} {
			broken, _, _ := system(t, 2)
			write(t, filepath.Join(broken, ManifestFile), []byte(bad))
			_, err := Load(broken)
			missing(t, err)
		}
	})
	t.Run("an image that was built anew since", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, agentos.InitramfsFile), initramfs[1:], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Build(t.Context(), Config{Dir: dir, Force: true}); err != nil {
			t.Fatal(err)
		}
		_, err := image.Open(Part{})
		missing(t, err)
	})
}

// TestGrubConfig has GRUB's own parser read what GRUB will.
func TestGrubConfig(t *testing.T) {
	check, err := exec.LookPath("grub-script-check")
	if err != nil {
		t.Skip("SKIPPED: grub-script-check is not installed: apt-get install grub-common")
	}
	for name, script := range map[string][]byte{"configuration": []byte(grubConfig(mark("0123"))), "empty script": emptyScript()} {
		cmd := exec.Command(check)
		cmd.Stdin = bytes.NewReader(script)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, said)
		}
	}
}
