package ipxe

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	t.Run("earlier directories go first", func(t *testing.T) {
		own := t.TempDir()
		if err := os.WriteFile(filepath.Join(own, "snponly.efi"), []byte("own"), 0o644); err != nil {
			t.Fatal(err)
		}
		files, err := Load(own, bootDir(t))
		if err != nil {
			t.Fatal(err)
		}
		f, _ := files.File("snponly.efi")
		if string(f.Content) != "own" || f.Digest != "sha256:5b3975651c3cab92d044c096dc30a1c2d9525497457472de48c51ecb363d1f4a" {
			t.Errorf("%q, %s", f.Content, f.Digest)
		}
		if len(files.All()) != len(Table()) || len(files.Missing()) != 0 {
			t.Errorf("%d files, missing %v", len(files.All()), files.Missing())
		}
	})
	t.Run("a missing file says which package has it", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "undionly.kpxe"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		files, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, m := range files.Missing() {
			said = append(said, m.String())
		}
		all := strings.Join(said, "\n")
		for _, want := range []string{"snponly.efi is missing", "apt-get install ipxe", "apt-get install shim-signed", "apt-get install grub-efi-amd64-signed"} {
			if !strings.Contains(all, want) {
				t.Errorf("%q is not in\n%s", want, all)
			}
		}
		if strings.Contains(all, "arm64") {
			t.Error("an optional file is missed:\n" + all)
		}
		if name, ok := files.NameFor(7, false); ok {
			t.Errorf("%s is advertised and not there", name)
		}
	})
	t.Run("no file at all is an error that says what to do", func(t *testing.T) {
		_, err := Load(t.TempDir())
		if !errors.Is(err, ErrNoBootFiles) || !strings.Contains(err.Error(), "apt-get install ipxe") {
			t.Error(err)
		}
	})
	t.Run("files that cannot be boot files are refused", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "undionly.kpxe"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil {
			t.Error("an empty file was loaded")
		}
		dir = t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "undionly.kpxe"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil {
			t.Error("a directory was loaded")
		}
	})
}

// TestContract follows each name that clients are told, or ask for themselves,
// to its bytes by TFTP and by HTTP.
func TestContract(t *testing.T) {
	s := newServer(t, newRack(), nil)
	names := map[string]string{}
	for _, test := range []struct {
		arch       Arch
		secureBoot bool
		want       string
	}{
		{0, false, "undionly.kpxe"}, {7, false, "snponly.efi"}, {9, false, "snponly.efi"}, {16, false, "snponly.efi"},
		{11, false, "snponly-arm64.efi"}, {19, false, "snponly-arm64.efi"},
		{7, true, "shimx64.efi"}, {16, true, "shimx64.efi"},
		{0, true, ""}, {6, false, ""}, {11, true, ""}, {15, false, ""},
	} {
		name, ok := s.cfg.BootFiles.NameFor(test.arch, test.secureBoot)
		if name != test.want || ok != (test.want != "") {
			t.Errorf("architecture %d, Secure Boot %v: got %q, want %q", test.arch, test.secureBoot, name, test.want)
		}
		if ok {
			names[name] = ""
		}
	}
	for _, row := range Table() {
		names[row.Name] = row.Sources[0]
	}
	for name, source := range names {
		if source == "" {
			t.Errorf("%s is advertised and not in the table", name)
		}
		want := "content of " + source
		f, err := s.Open(name, freeAddr)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || string(got) != want {
			t.Errorf("TFTP %s: %q, %v", name, got, err)
		}
		for _, path := range []string{"/boot/" + name, "//boot/" + name, "/boot//" + name} { // the last is shim's
			head := ask(s, freeAddr, "HEAD", path, "User-Agent", "UefiHttpBoot/1.0")
			get := ask(s, freeAddr, "GET", path, "User-Agent", "UefiHttpBoot/1.0")
			got := body(t, get)
			if head.StatusCode != 200 || get.StatusCode != 200 || got != want {
				t.Errorf("HTTP %s: %d, %d, %q", path, head.StatusCode, get.StatusCode, got)
			}
			if length := head.Header.Get("Content-Length"); length != strconv.Itoa(len(want)) {
				t.Errorf("HEAD %s: Content-Length %q", path, length)
			}
		}
	}
}

// TestDebian loads the distribution's own files, where they are installed.
func TestDebian(t *testing.T) {
	files, err := Load()
	if errors.Is(err, ErrNoBootFiles) {
		t.Skip("SKIPPED: no boot files are installed: apt-get install ipxe shim-signed grub-efi-amd64-signed")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files.All() {
		t.Logf("%-20s %8d %s %s", f.Name, len(f.Content), f.Digest[:19], f.Path)
		if f.Firmware == "uefi" && string(f.Content[:2]) != "MZ" {
			t.Errorf("%s is no PE program", f.Path)
		}
	}
	for _, m := range files.Missing() {
		t.Log(m)
	}
}
