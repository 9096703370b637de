package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/agent/step"
)

// needsRoot skips where loop devices and mounts can't be had.
func needsRoot(t testing.TB) {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to mount file systems on loop devices")
	}
	if os.Getuid() != 0 {
		t.Fatal("BEDPLATE_E2E=1 needs root")
	}
}

const mib = 1 << 20

// makeDisk makes a disk with a GPT and one file system in its second partition.
func makeDisk(t testing.TB, size int64, mkfs ...string) string {
	t.Helper()
	dir := t.TempDir()
	fs, path := filepath.Join(dir, "fs"), filepath.Join(dir, "disk")
	must(t, os.WriteFile(fs, nil, 0o600))
	must(t, os.Truncate(fs, size))
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], fs)...).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: %s: %v\n%s", mkfs[0], err, out)
	}
	g, err := partition.NewGPT(partition.RandomGUID([16]byte{1}), 512, uint64(size/512+8192))
	must(t, err)
	must(t, g.Set(partition.Partition{Number: 2, Type: partition.TypeLinux, ID: partition.RandomGUID([16]byte{2}), Label: "system", Start: 4096, Blocks: uint64(size / 512)}))
	b := make([]byte, 4096*512)
	partition.PutProtective(b, uint64(size/512+8192))
	h, e := g.Primary()
	copy(b[512:], h)
	copy(b[1024:], e)
	out, err := os.Create(path)
	must(t, err)
	in, err := os.Open(fs)
	must(t, err)
	_, err = out.Write(b)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, errors.Join(err, in.Close(), out.Truncate(size+8192*512), out.Close()))
	return path
}

// program is a static program for the installed system.
func program(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(`package main
import ("fmt"; "os")
func main() {
	fmt.Println("pid", os.Getpid(), "env", os.Getenv("GREETING"), "args", os.Args[1:])
	b, err := os.ReadFile("/etc/resolv.conf")
	fmt.Printf("resolv %q %v\n", b, err)
	_, err = os.Stat("/dev/null"); fmt.Println("dev", err)
	_, err = os.Stat("/proc/self/status"); fmt.Println("proc", err)
	fmt.Println("written", os.WriteFile("/made", []byte("here"), 0o644))
	fmt.Fprintln(os.Stderr, "last words")
	if len(os.Args) > 1 && os.Args[1] == "fail" { os.Exit(7) }
}`), 0o600))
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "program"), "main.go")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "program"))
	must(t, err)
	return string(b)
}

// mounted returns what is still mounted of ours. Loop devices aren't looked at:
// a namespace that anyone else makes meanwhile keeps them for as long as it lives.
func mounted(t testing.TB, ours ...string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	var mine []string
	for line := range strings.Lines(string(b)) {
		for _, path := range ours {
			if strings.Contains(line, path) {
				mine = append(mine, line)
			}
		}
	}
	return strings.Join(mine, "")
}

func TestE2E(t *testing.T) {
	needsRoot(t)
	tool := program(t)
	for name, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-F"}, "xfs": {"mkfs.xfs", "-q", "-f"}, "btrfs": {"mkfs.btrfs", "-q", "-f"},
	} {
		t.Run(name, func(t *testing.T) {
			path := makeDisk(t, 320*mib, mkfs...)
			s := service(t)
			s.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
			must(t, os.WriteFile(s.ResolvConf, []byte("nameserver 192.0.2.1\n"), 0o644))
			do := func(action string, with map[string]any) (step.Result, *silent, error) {
				with["disk"] = path
				rep := &silent{}
				res, err := s.Steps()[action].Execute(t.Context(), step.Request{With: with, Env: map[string]string{"GREETING": "hello"}}, rep)
				if left := mounted(t, s.Folder, path); left != "" {
					t.Errorf("after %s these are left:\n%s", action, left)
				}
				return res, rep, err
			}
			for _, f := range []map[string]any{
				{"path": "/usr/bin/program", "content": tool, "mode": "0755"},
				{"path": "/etc/hostname", "content": "node-1\n", "partition": "system", "uid": int64(12), "gid": int64(34), "mode": "0640"},
				{"path": "/proc/x", "content": ""}, {"path": "/sys/x", "content": ""}, {"path": "/dev/x", "content": ""}, {"path": "/run/x", "content": ""},
			} {
				if _, _, err := do("file.write", f); err != nil {
					t.Fatal(err)
				}
			}
			must(t, s.within(t.Context(), place{disk: path}, false, func(v *Volume) error {
				st, err := os.Stat(filepath.Join(v.Root, "etc/hostname"))
				if err != nil || st.Mode() != 0o640 || fmt.Sprint(st.Sys()) == "" {
					t.Errorf("hostname is %v: %v", st, err)
				}
				return os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(v.Root, "etc/resolv.conf"))
			}))
			res, rep, err := do("chroot.exec", map[string]any{"command": []any{"program", "one"}})
			if err != nil {
				t.Fatalf("%v\n%s", err, strings.Join(rep.lines, "\n"))
			}
			out := res.Outputs["stdout"].(string)
			for _, want := range []string{"pid 1 env hello args [one]", `resolv "nameserver 192.0.2.1\n" <nil>`, "dev <nil>", "proc <nil>", "written <nil>"} {
				if !strings.Contains(out, want) {
					t.Errorf("output = %s\nlacks %q", out, want)
				}
			}
			must(t, s.within(t.Context(), place{disk: path, partition: "2"}, true, func(v *Volume) error {
				if b, err := os.ReadFile(filepath.Join(v.Root, "made")); err != nil || string(b) != "here" {
					t.Errorf("what the program wrote: %q, %v", b, err)
				}
				return nil
			}))
			res, rep, err = do("chroot.exec", map[string]any{"command": []any{"/usr/bin/program", "fail"}})
			if err == nil || res.ExitCode == nil || *res.ExitCode != 7 || !strings.Contains(strings.Join(rep.lines, "\n"), "last words") {
				t.Errorf("a failing program: %v, %+v", err, res)
			}
			if _, _, err := do("chroot.exec", map[string]any{"command": []any{"nothing"}}); err == nil || !strings.Contains(err.Error(), "there is no program nothing in the installed system") {
				t.Errorf("a missing program: %v", err)
			}
			if _, _, err := do("file.write", map[string]any{"path": "/x", "content": strings.Repeat("x", 400*mib)}); err == nil || !strings.Contains(err.Error(), "no space left on device") {
				t.Errorf("a full file system: %v", err)
			}
		})
	}
}
