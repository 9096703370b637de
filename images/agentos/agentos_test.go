package agentos

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// entry is what the tests look at of an archive's entry.
type entry struct {
	Name, Mode, Content string
}

// readCPIO reads an archive by the letter of buffer-format.rst.
func readCPIO(t *testing.T, b []byte) []entry {
	t.Helper()
	var out []entry
	for {
		if len(b) < cpioHeader || string(b[:6]) != "070701" {
			t.Fatalf("no header where one should be: %.20q", b)
		}
		field := func(i int) int {
			v, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(v)
		}
		size, nameSize, mode := field(6), field(11), field(1)
		name := string(b[cpioHeader : cpioHeader+nameSize-1])
		at := (cpioHeader + nameSize + 3) &^ 3
		content := string(b[at : at+size])
		b = b[(at+size+3)&^3:]
		if name == "TRAILER!!!" {
			return out
		}
		out = append(out, entry{name, fmt.Sprintf("%o", mode), content})
	}
}

func TestTree_writeCPIO(t *testing.T) {
	tr := newTree()
	tr.file("usr/bin/b", 0o755, []byte("hello"))
	tr.file("init", 0o755, []byte("four"))
	tr.link("bin", "usr/bin")
	tr.char("dev/console", 0o600, 5, 1)
	tr.dir("tmp", 0o1777)
	var a, b bytes.Buffer
	if err := tr.writeCPIO(&a, time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	if err := tr.writeCPIO(&b, time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same tree gave two archives")
	}
	want := []entry{
		{"bin", "120777", "usr/bin"},
		{"dev", "40755", ""},
		{"dev/console", "20600", ""},
		{"init", "100755", "four"},
		{"tmp", "41777", ""},
		{"usr", "40755", ""},
		{"usr/bin", "40755", ""},
		{"usr/bin/b", "100755", "hello"},
	}
	if d := cmp.Diff(want, readCPIO(t, a.Bytes())); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
}

func testModules() *moduleSet {
	s := &moduleSet{byName: map[string]*module{}, byAlias: map[string][]*module{}, inside: map[string]bool{}}
	s.addBuiltinAliases([]byte("sha256_generic.license=GPL\x00sha256_generic.alias=sha256-inside\x00"))
	for _, m := range []*module{
		{name: "btrfs", depends: []string{"libcrc32c", "xor"}, soft: []string{"crc32c", "sha256-inside", "nowhere"}},
		{name: "libcrc32c", soft: []string{"crc32c"}},
		{name: "xor"},
		{name: "crc32c_intel", aliases: []string{"crc32c"}},
		{name: "crc32c_generic", aliases: []string{"crc32c"}},
		{name: "loops", soft: []string{"back"}},
		{name: "back", depends: []string{"loops"}},
	} {
		m.path = "kernel/" + m.name + ".ko"
		s.byName[m.name] = m
		for _, a := range m.aliases {
			s.byAlias[a] = append(s.byAlias[a], m)
		}
	}
	return s
}

func names(ms []*module) (out []string) {
	for _, m := range ms {
		out = append(out, m.name)
	}
	return out
}

func TestModuleSet_choose(t *testing.T) {
	t.Run("dependencies and soft dependencies come along", func(t *testing.T) {
		chosen, absent := testModules().choose([]string{"btrfs", "sha256-inside", "no-such"})
		if d := cmp.Diff([]string{"btrfs", "crc32c_generic", "libcrc32c", "xor"}, names(chosen)); d != "" {
			t.Errorf("chosen (-want +got):\n%s", d)
		}
		if d := cmp.Diff([]string{"no_such"}, absent); d != "" {
			t.Errorf("absent (-want +got):\n%s", d)
		}
	})
	t.Run("what a module needs comes before it", func(t *testing.T) {
		s := testModules()
		got := names(s.closure(s.byName["btrfs"]))
		if d := cmp.Diff([]string{"crc32c_generic", "libcrc32c", "xor"}, got); d != "" {
			t.Errorf("order (-want +got):\n%s", d)
		}
	})
	t.Run("a circle of soft dependencies ends", func(t *testing.T) {
		s := testModules()
		if d := cmp.Diff([]string{"back"}, names(s.closure(s.byName["loops"]))); d != "" {
			t.Errorf("order (-want +got):\n%s", d)
		}
	})
}

func TestSoftBefore(t *testing.T) {
	got := softBefore("pre: crc32c xxhash64 post: late pre: again")
	if d := cmp.Diff([]string{"crc32c", "xxhash64", "again"}, got); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
}

func TestKernelDependency(t *testing.T) {
	for depends, want := range map[string]string{
		"linux-image-6.1.0-56-amd64 (= 6.1.192-2)": "linux-image-6.1.0-56-amd64",
		"kmod, linux-base (>= 4.3~)":               "",
		"":                                         "",
		"linux-image-6.12+x-amd64 | linux-nothing": "linux-image-6.12+x-amd64",
	} {
		if got := kernelDependency(depends); got != want {
			t.Errorf("kernelDependency(%q) = %q, want %q", depends, got, want)
		}
	}
}

func TestControl(t *testing.T) {
	got := control([]byte("Package: a\nDescription: short\n folded: text\nSHA256: 00\n\nPackage: b\n"))
	want := map[string]string{"Package": "a", "Description": "short", "SHA256": "00"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("fields (-want +got):\n%s", d)
	}
}

// staticELF writes the smallest file that debug/elf takes for a static program.
func staticELF(t *testing.T, dir string) string {
	t.Helper()
	head := make([]byte, 64)
	copy(head, elf.ELFMAG)
	head[elf.EI_CLASS], head[elf.EI_DATA], head[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	head[16], head[18], head[20], head[52] = byte(elf.ET_EXEC), byte(elf.EM_X86_64), 1, 64
	path := filepath.Join(dir, "agent")
	if err := os.WriteFile(path, head, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadAgent(t *testing.T) {
	t.Run("a missing binary says how to make it", func(t *testing.T) {
		_, err := readAgent(filepath.Join(t.TempDir(), "agent"))
		if !errors.Is(err, ErrAgent) || !strings.Contains(err.Error(), "make build") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a script is refused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "agent")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := readAgent(path); !errors.Is(err, ErrAgent) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a dynamic binary is refused", func(t *testing.T) {
		if _, err := os.Stat("/usr/bin/env"); err != nil {
			t.Skip("no /usr/bin/env on this machine")
		}
		if n, err := neededBy("/usr/bin/env"); err != nil || len(n.libraries) == 0 {
			t.Skip("/usr/bin/env is static on this machine")
		}
		if _, err := readAgent("/usr/bin/env"); !errors.Is(err, ErrAgent) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a static one is taken", func(t *testing.T) {
		if _, err := readAgent(staticELF(t, t.TempDir())); err != nil {
			t.Error(err)
		}
	})
}

func TestArchivePath(t *testing.T) {
	for path, want := range map[string]string{
		"/sbin/mkfs.ext4": "usr/sbin/mkfs.ext4", "/usr/sbin/mkfs.xfs": "usr/sbin/mkfs.xfs",
		"/lib64/ld-linux-x86-64.so.2": "usr/lib64/ld-linux-x86-64.so.2", "/opt/x/y": "opt/x/y",
	} {
		if got := archivePath(path); got != want {
			t.Errorf("archivePath(%q) = %q, want %q", path, got, want)
		}
	}
}

// TestConfig_write goes through the last part of a build: files, digests,
// manifest, and the next build that finds them.
func TestConfig_write(t *testing.T) {
	dir := t.TempDir()
	c, err := Config{Out: dir, Agent: "unused"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	tr := newTree()
	tr.file("init", 0o755, bytes.Repeat([]byte("agent"), 1000))
	m, err := c.write(context.Background(), Manifest{Inputs: "abc", Release: "6.1"}, tr, []byte("kernel"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := os.ReadFile(filepath.Join(dir, InitramfsFile))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.Initramfs.SHA256, digest(z); got != want {
		t.Errorf("digest in the manifest is %s, the file's is %s", got, want)
	}
	r, err := zstd.NewReader(bytes.NewReader(z))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := int64(len(plain)), m.Unpacked; got != want {
		t.Errorf("unpacked to %d bytes, the manifest says %d", got, want)
	}
	if got := readCPIO(t, plain); len(got) != 1 || got[0].Name != "init" {
		t.Errorf("archive has %v", got)
	}
	if _, ok := finished(dir, "abc"); !ok {
		t.Error("a finished build was not found")
	}
	if _, ok := finished(dir, "other"); ok {
		t.Error("a build from other inputs was taken for finished")
	}
	if err := os.WriteFile(filepath.Join(dir, KernelFile), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok := finished(dir, "abc"); ok {
		t.Error("a damaged kernel was taken for finished")
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

func TestConfig_addShell(t *testing.T) {
	t.Run("a static program is in no path", func(t *testing.T) {
		tr := newTree()
		if err := (Config{Shell: staticELF(t, t.TempDir())}).addShell(tr); err != nil {
			t.Fatal(err)
		}
		for name, n := range tr.nodes {
			if len(n.content) > 0 && name != "usr/lib/bedplate/busybox" {
				t.Errorf("it is at %s", name)
			}
		}
	})
	t.Run("one that isn't there is an error that says what to install", func(t *testing.T) {
		err := (Config{Shell: filepath.Join(t.TempDir(), "none")}).addShell(newTree())
		if err == nil || !strings.Contains(err.Error(), "apt-get install busybox-static") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("one that needs libraries is refused", func(t *testing.T) {
		if err := (Config{Shell: "/bin/ls"}).addShell(newTree()); !errors.Is(err, errShell) {
			t.Errorf("error %v", err)
		}
	})
}
