package holder

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fake is a kernel that keeps sysfs and /proc as they would be.
type fake struct {
	root  string
	did   []string
	busy  map[string]int // how often something is still busy
	stuck map[string]bool
}

func (f *fake) do(what, name string) error {
	if f.stuck[name] {
		return unix.EBUSY
	}
	if f.busy[name] > 0 {
		f.busy[name]--
		return unix.EBUSY
	}
	f.did = append(f.did, what+" "+name)
	return nil
}

func (f *fake) Unmount(path string) error   { return f.do("unmount", path) }
func (f *fake) SwapOff(path string) error   { return f.do("swapoff", path) }
func (f *fake) StopArray(node string) error { return f.do("stop", strings.TrimPrefix(node, f.root)) }
func (f *fake) RemoveMap(name string) error { return f.do("remove", name) }

// world is a disk with two partitions: the first in an array under a volume
// group with a mounted and an encrypted volume, the second swap.
func world(t *testing.T) (*Service, *fake) {
	t.Helper()
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, dev := range map[string]string{"sda": "8:0", "sda/sda1": "8:1", "sda/sda2": "8:2", "md0": "9:0", "dm-0": "253:0", "dm-1": "253:1", "dm-2": "253:2"} {
		write("sys/devices/"+name+"/dev", dev+"\n")
		base := filepath.Base(name)
		if err := errors.Join(os.MkdirAll(filepath.Join(root, "sys/class/block"), 0o755), os.Symlink("../../devices/"+name, filepath.Join(root, "sys/class/block", base))); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/devices/sda/sda1/partition", "1")
	write("sys/devices/sda/sda2/partition", "2")
	write("sys/devices/sda/sda1/holders/md0", "")
	write("sys/devices/md0/md/array_state", "clean")
	write("sys/devices/md0/holders/dm-0", "")
	write("sys/devices/md0/holders/dm-1", "")
	write("sys/devices/dm-0/dm/name", "vg-srv\n")
	write("sys/devices/dm-1/dm/name", "vg-secret\n")
	write("sys/devices/dm-1/holders/dm-2", "")
	write("sys/devices/dm-2/dm/name", "vault\n")
	write("proc/self/mountinfo", strings.Join([]string{
		"22 1 0:5 / / rw - rootfs none rw",
		"30 22 253:0 / /srv rw - ext4 " + root + "/dev/dm-0 rw",
		`31 22 253:0 /sub /srv\040too rw - ext4 ` + root + "/dev/dm-0 rw",
		"32 22 0:44 / /vault rw - btrfs " + root + "/dev/dm-2 rw",
		"33 22 8:17 / /other rw - ext4 /dev/sdb1 rw",
	}, "\n"))
	write("proc/swaps", "Filename Type\n"+root+"/dev/sda2 partition 1 0 -2\n")
	k := &fake{root: root, busy: map[string]int{}, stuck: map[string]bool{}}
	return New(Config{Sys: root + "/sys", Proc: root + "/proc", Dev: root + "/dev", Kernel: k, Patience: 300 * time.Millisecond}), k
}

func TestFree(t *testing.T) {
	free := func(s *Service) (string, error) {
		var said []string
		err := s.free(t.Context(), filepath.Join(s.Sys, "devices/sda"), func(m string) { said = append(said, m) }, 0)
		return strings.Join(said, "\n"), err
	}
	t.Run("what is stacked is taken off from the top", func(t *testing.T) {
		s, k := world(t)
		k.busy["vault"] = 2
		said, err := free(s)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"unmount /srv too", "unmount /srv", "remove vg-srv", "unmount /vault", "remove vault", "remove vg-secret", "stop /dev/md0", "swapoff " + k.root + "/dev/sda2"}
		if diff := cmp.Diff(want, k.did); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for _, line := range []string{"stopped RAID array md0, which held sda1", "stopped dm-2 (vault), which held dm-1", "unmounted /srv too"} {
			if !strings.Contains(said, line) {
				t.Errorf("nothing is said of %q:\n%s", line, said)
			}
		}
	})
	t.Run("a file system in use stays, and is the error", func(t *testing.T) {
		s, k := world(t)
		k.stuck["/srv"] = true
		_, err := free(s)
		if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "dm-0 is mounted at /srv") {
			t.Errorf("error = %v", err)
		}
		if diff := cmp.Diff([]string{"unmount /srv too"}, k.did); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("an array that can't be stopped names both", func(t *testing.T) {
		s, k := world(t)
		k.stuck["/dev/md0"] = true
		if _, err := free(s); err == nil || !strings.Contains(err.Error(), "sda1 is held by md0: stopping it") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("a holder of an unknown kind is the error", func(t *testing.T) {
		s, k := world(t)
		if err := os.RemoveAll(filepath.Join(k.root, "sys/devices/md0/md")); err != nil {
			t.Fatal(err)
		}
		if _, err := free(s); err == nil || !strings.Contains(err.Error(), "neither RAID nor device mapper") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("a ring of holders ends", func(t *testing.T) {
		s, k := world(t)
		if err := errors.Join(os.MkdirAll(filepath.Join(k.root, "sys/devices/dm-2/holders"), 0o755), os.WriteFile(filepath.Join(k.root, "sys/devices/dm-2/holders/md0"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := free(s); err == nil || !strings.Contains(err.Error(), "more than 16 devices") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("a file has nothing on it", func(t *testing.T) {
		s, _ := world(t)
		if err := s.Free(t.Context(), filepath.Join(s.Proc, "swaps"), nil); err != nil {
			t.Error(err)
		}
	})
}

// TestE2E_Free takes a mounted file system and a device mapper's device off a
// loop device of the real kernel.
func TestE2E_Free(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to work on loop devices")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 64<<20)); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	loop := run("losetup", "-f", "--show", file)
	t.Cleanup(func() { run("losetup", "-d", loop) })
	// A kernel without device mapper has the file system on the disk itself.
	device, want := loop, []string{"unmounted "}
	name := "bedplate-test-" + filepath.Base(loop)
	if exec.Command("dmsetup", "version").Run() == nil {
		run("dmsetup", "create", name, "--table", "0 131072 linear "+loop+" 0")
		t.Cleanup(func() { _ = exec.Command("dmsetup", "remove", name).Run() }) // it is gone already
		device, want = "/dev/mapper/"+name, append(want, "("+name+")")
	}
	run("mkfs.ext4", "-q", device)
	dir := t.TempDir()
	run("mount", device, dir)
	var said []string
	if err := New(Config{}).Free(t.Context(), loop, func(m string) { said = append(said, m) }); err != nil {
		t.Fatal(err)
	}
	if exec.Command("mountpoint", "-q", dir).Run() == nil || device != loop && exec.Command("dmsetup", "info", name).Run() == nil {
		t.Error("it is still there")
	}
	if len(said) != len(want) {
		t.Fatalf("said %q", said)
	}
	for i, w := range want {
		if !strings.Contains(said[i], w) {
			t.Errorf("said %q, not %q", said[i], w)
		}
	}
}
