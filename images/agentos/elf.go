package agentos

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// needs is what a program or library wants of the dynamic linker.
type needs struct {
	interpreter string
	libraries   []string
	runpath     []string
	class       elf.Class
	machine     elf.Machine
}

// neededBy reads PT_INTERP, DT_NEEDED and DT_RUNPATH of an ELF file.
func neededBy(path string) (needs, error) {
	f, err := elf.Open(path)
	if err != nil {
		return needs{}, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close() //nolint:errcheck // read only
	n := needs{class: f.Class, machine: f.Machine}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return needs{}, fmt.Errorf("reading %s: %w", path, err)
		}
		n.interpreter = strings.TrimRight(string(b), "\x00")
	}
	if f.Section(".dynamic") == nil {
		return n, nil
	}
	if n.libraries, err = f.ImportedLibraries(); err != nil {
		return needs{}, fmt.Errorf("reading libraries of %s: %w", path, err)
	}
	runpath, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return needs{}, fmt.Errorf("reading libraries of %s: %w", path, err)
	}
	for _, r := range runpath {
		for dir := range strings.SplitSeq(r, ":") {
			n.runpath = append(n.runpath, strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(path)))
		}
	}
	return n, nil
}

// libraryDirs are where the dynamic linkers of Debian look, in order.
var libraryDirs = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu",
	"/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
	"/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

// addProgram puts a program into t at the path it has here, with the dynamic
// linker and every library that it or they need.
func addProgram(t *tree, program string) error {
	todo := []string{program}
	seen := map[string]bool{}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		if err := addResolved(t, path); err != nil {
			return err
		}
		n, err := neededBy(path)
		if err != nil {
			return err
		}
		if n.interpreter != "" {
			todo = append(todo, n.interpreter)
		}
		if path == program {
			n.libraries = append(n.libraries, loadedLate[filepath.Base(program)]...)
		}
		for _, lib := range n.libraries {
			found, err := n.find(lib)
			if err != nil {
				return fmt.Errorf("adding %s: %w", program, err)
			}
			todo = append(todo, found)
		}
	}
	return nil
}

// find returns the path of a library of the same machine type.
func (n needs) find(lib string) (string, error) {
	for _, dir := range slices.Concat(n.runpath, libraryDirs) {
		path := filepath.Join(dir, lib)
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		same := f.Class == n.class && f.Machine == n.machine
		_ = f.Close()
		if same {
			return path, nil
		}
	}
	return "", fmt.Errorf("library %s is not on this machine", lib)
}

// addResolved adds the file behind path under the name path, in the layout
// where /bin, /sbin, /lib and /lib64 lead to /usr. Links among files are followed:
// mkfs.ext4 becomes a file of its own.
func addResolved(t *tree, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("adding %s: %w", path, err)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("adding %s: %w", path, err)
	}
	name, realName := archivePath(path), archivePath(real)
	t.file(realName, 0o755, b)
	if name != realName {
		t.link(name, "/"+realName)
	}
	return nil
}

// archivePath is where a file of this machine lies in the archive.
func archivePath(path string) string {
	p := strings.TrimPrefix(filepath.Clean(path), "/")
	first, _, _ := strings.Cut(p, "/")
	switch first {
	case "bin", "sbin", "lib", "lib64":
		return "usr/" + p
	}
	return p
}

// DefaultTools are the programs that the agent's steps run, where Debian puts them.
func DefaultTools() []string {
	return []string{
		"/usr/sbin/mkfs.ext4", // e2fsprogs
		"/usr/sbin/mkfs.vfat", // dosfstools
		"/usr/sbin/mkfs.xfs",  // xfsprogs
		"/usr/sbin/mkswap",    // util-linux
		"/usr/sbin/mdadm",     // mdadm
		"/usr/sbin/lvm",       // lvm2
		"/usr/sbin/dmsetup",   // dmsetup
		"/usr/sbin/cryptsetup",
	}
}

// loadedLate are libraries that a program doesn't name but loads while it runs:
// the threads of argon2, which derive keys from passphrases, end by way of libgcc.
var loadedLate = map[string][]string{"cryptsetup": {"libgcc_s.so.1"}}

// toolPackages says where to get a tool from, for the error message.
var toolPackages = map[string]string{
	"mkfs.ext4": "e2fsprogs", "mkfs.vfat": "dosfstools", "mkfs.xfs": "xfsprogs",
	"mkswap": "util-linux", "mkfs.btrfs": "btrfs-progs", "runc": "runc",
	"mdadm": "mdadm", "lvm": "lvm2", "dmsetup": "dmsetup", "cryptsetup": "cryptsetup-bin",
}

// collectFiles gathers everything that comes from this machine: programs,
// certificates and the few files that libraries look for.
func (c Config) collectFiles() (*tree, error) {
	t := newTree()
	for _, d := range []string{"dev", "proc", "sys", "run", "mnt", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var"} {
		t.dir(d, 0o755)
	}
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	t.link("var/run", "/run")
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		t.link(d, "usr/"+d)
	}
	// The kernel opens it for PID 1's standard streams before anything is mounted.
	t.char("dev/console", 0o600, 5, 1)
	t.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/\n"))
	t.file("etc/group", 0o644, []byte("root:x:0:\n"))
	t.file("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n"))
	t.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	certs, err := os.ReadFile(c.Certificates)
	if err != nil {
		return nil, fmt.Errorf("reading CA certificates (apt-get install ca-certificates): %w", err)
	}
	t.file("etc/ssl/certs/ca-certificates.crt", 0o644, certs)
	for _, tool := range c.Tools {
		if err := addProgram(t, tool); err != nil {
			if pkg := toolPackages[filepath.Base(tool)]; pkg != "" && errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%w (apt-get install %s)", err, pkg)
			}
			return nil, err
		}
	}
	if err := c.addShell(t); err != nil {
		return nil, err
	}
	// mkfs.ext4 takes its defaults from here; without it there is no 64bit or metadata_csum.
	if b, err := os.ReadFile("/etc/mke2fs.conf"); err == nil {
		t.file("etc/mke2fs.conf", 0o644, b)
	}
	return t, nil
}
