package container

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// InitName is the name by which the binary is run to become a container's
// first process. Its main must call Init then, before anything else.
const InitName = "bedplate-container-init"

// Descriptors that Init is given.
const (
	specFD   = 3
	statusFD = 4
)

// Init makes this process, the first in new namespaces, the container's
// program. It returns only if that failed; the reason is then in the status
// file too, and the caller should exit.
func Init() error {
	runtime.LockOSThread() // capabilities are a thread's
	unix.CloseOnExec(specFD)
	unix.CloseOnExec(statusFD)
	err := become()
	_, _ = unix.Pwrite(statusFD, []byte(err.Error()), 0) // there is nobody else to tell
	return err
}

func become() error {
	var s spec
	if err := json.NewDecoder(os.NewFile(specFD, "spec")).Decode(&s); err != nil {
		return fmt.Errorf("reading container's spec: %w", err)
	}
	if err := s.mountAll(); err != nil {
		return err
	}
	if err := changeRoot(s.Root); err != nil {
		return err
	}
	account, err := lookUp(s.User, "/etc/passwd", "/etc/group")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return fmt.Errorf("making working folder: %w", err)
	}
	if err := os.Chdir(s.Dir); err != nil {
		return fmt.Errorf("entering working folder: %w", err)
	}
	env := s.Env
	if !hasName(env, "HOME") {
		env = append(env, "HOME="+account.home)
	}
	if err := s.giveUp(account); err != nil {
		return err
	}
	return execute(s.Args, env)
}

func hasName(env []string, name string) bool {
	for _, kv := range env {
		if strings.HasPrefix(kv, name+"=") {
			return true
		}
	}
	return false
}

// execute becomes the program, found in the container's PATH.
func execute(args, env []string) error {
	program := args[0]
	if !strings.Contains(program, "/") {
		var search string
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, "PATH="); ok {
				search = v
			}
		}
		program = ""
		for dir := range strings.SplitSeq(search, ":") {
			p := filepath.Join("/", dir, args[0])
			if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				program = p
				break
			}
		}
		if program == "" {
			return fmt.Errorf("starting %s: %w in PATH %s of the image", args[0], exec.ErrNotFound, search)
		}
	}
	if err := syscall.Exec(program, args, env); err != nil {
		return fmt.Errorf("starting %s: %w", program, err)
	}
	return nil
}

const noFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountAll makes the container's view of the machine below its root.
func (s spec) mountAll() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount(s.Root, s.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding root: %w", err)
	}
	t, err := openTree(s.Root) // of the mount, not of what is below it
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.mount("proc", "proc", "proc", noFlags, ""); err != nil {
		return err
	}
	if s.Privileged {
		err = errors.Join(t.mount("/sys", "sys", "", unix.MS_BIND|unix.MS_REC, ""), t.mount("/dev", "dev", "", unix.MS_BIND|unix.MS_REC, ""))
	} else {
		err = errors.Join(t.mount("sysfs", "sys", "sysfs", noFlags|unix.MS_RDONLY, ""), t.devices(), t.harden())
	}
	if err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if err := t.mountOne(m); err != nil {
			return err
		}
	}
	return nil
}

// mount mounts onto a folder of the tree, which is made if it isn't there.
func (t *tree) mount(source, target, fstype string, flags uintptr, data string) error {
	fd, err := t.folder(clean(target))
	if err != nil {
		return fmt.Errorf("making mount point %s: %w", target, err)
	}
	defer unix.Close(fd)
	return mountAt(fd, source, target, fstype, flags, data)
}

func mountAt(fd int, source, target, fstype string, flags uintptr, data string) error {
	at := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Mount(source, at, fstype, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", source, target, err)
	}
	return nil
}

// devices makes a /dev with the few devices that every program may use.
func (t *tree) devices() error {
	if err := t.mount("tmpfs", "dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := t.writeFile("dev/"+name, nil, 0o666); err != nil {
			return err
		}
		fd, err := unix.Openat2(t.root, "dev/"+name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		if err != nil {
			return fmt.Errorf("making device %s: %w", name, err)
		}
		err = mountAt(fd, "/dev/"+name, "dev/"+name, "", unix.MS_BIND, "")
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	dev, err := t.folder("dev")
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := unix.Symlinkat(target, dev, name); err != nil {
			return fmt.Errorf("linking /dev/%s: %w", name, err)
		}
	}
	return errors.Join(
		t.mount("devpts", "dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"),
		t.mount("tmpfs", "dev/shm", "tmpfs", noFlags, "mode=1777"),
	)
}

// harden keeps a container that isn't privileged from the kernel's switches.
func (t *tree) harden() error {
	for _, p := range []string{"proc/sys", "proc/irq", "proc/bus", "proc/fs"} {
		fd, err := t.openAt(p)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("opening %s: %w", p, err)
		}
		at := "/proc/self/fd/" + strconv.Itoa(fd)
		err = unix.Mount(at, at, "", unix.MS_BIND|unix.MS_REC, "")
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("binding %s: %w", p, err)
		}
		if err := t.readOnly(p); err != nil {
			return err
		}
	}
	for _, p := range []string{"proc/kcore", "proc/sysrq-trigger", "proc/keys", "proc/timer_list"} {
		fd, err := unix.Openat2(t.root, p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("opening %s: %w", p, err)
		}
		err = mountAt(fd, "/dev/null", p, "", unix.MS_BIND, "")
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// readOnly makes the mount that is at a path of the tree read only.
func (t *tree) readOnly(p string) error {
	fd, err := t.openAt(p) // anew: of the mount, not of what is below it
	if err != nil {
		return fmt.Errorf("opening %s: %w", p, err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("making %s read only: %w", p, err)
	}
	return nil
}

// mountOne mounts a folder or a block device of the machine.
func (t *tree) mountOne(m Mount) error {
	info, err := os.Stat(m.Source)
	if err != nil {
		return fmt.Errorf("mounting %s: %w", m.Source, err)
	}
	if info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0 {
		return t.mountDevice(m)
	}
	if !info.IsDir() {
		return fmt.Errorf("mounting %s: it is neither a folder nor a block device", m.Source)
	}
	if err := t.mount(m.Source, m.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if m.ReadOnly {
		return t.readOnly(clean(m.Target))
	}
	return nil
}

func (t *tree) mountDevice(m Mount) error {
	var flags uintptr = unix.MS_NOSUID | unix.MS_NODEV
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	var errs []error
	for _, fs := range []string{"ext4", "xfs", "btrfs", "vfat", "squashfs"} {
		err := t.mount(m.Source, m.Target, fs, flags, "")
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", fs, err))
	}
	return errors.Join(errs...)
}

// changeRoot makes dir, a mount, the root. pivot_root(2) refuses where the
// root is the initramfs itself; there the mount is moved over it, as
// switch_root does.
func changeRoot(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("entering root: %w", err)
	}
	err := unix.PivotRoot(".", ".")
	switch {
	case err == nil:
		err = unix.Unmount(".", unix.MNT_DETACH)
	case errors.Is(err, unix.EINVAL):
		if err = unix.Mount(".", "/", "", unix.MS_MOVE, ""); err == nil {
			err = unix.Chroot(".")
		}
	}
	if err == nil {
		err = os.Chdir("/")
	}
	if err != nil {
		return fmt.Errorf("changing root: %w", err)
	}
	return nil
}

// account is whom the program runs as.
type account struct {
	uid, gid int
	groups   []int
	home     string
}

// lookUp reads "user", "user:group" or numbers, with the names in the image.
func lookUp(user, passwd, group string) (account, error) {
	name, groupName, _ := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	a := account{home: "/"}
	known := false
	err := eachLine(passwd, func(f []string) {
		if len(f) < 6 || known || (f[0] != name && f[2] != name) {
			return
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil {
			a.uid, a.gid, a.home, known = uid, gid, f[5], true
			name = f[0]
		}
	})
	if err != nil {
		return a, err
	}
	if !known {
		if a.uid, err = strconv.Atoi(name); err != nil || a.uid < 0 {
			return a, fmt.Errorf("the image has no user %q", name)
		}
	}
	wanted := groupName == ""
	err = eachLine(group, func(f []string) {
		if len(f) < 4 {
			return
		}
		gid, err := strconv.Atoi(f[2])
		if err != nil {
			return
		}
		switch {
		case groupName != "" && f[0] == groupName:
			a.gid, wanted = gid, true
		case groupName == "" && known && containsName(f[3], name):
			a.groups = append(a.groups, gid)
		}
	})
	if err == nil && !wanted {
		if a.gid, err = strconv.Atoi(groupName); err != nil || a.gid < 0 {
			err = fmt.Errorf("the image has no group %q", groupName)
		}
	}
	return a, err
}

func containsName(list, name string) bool {
	for n := range strings.SplitSeq(list, ",") {
		if n == name {
			return true
		}
	}
	return false
}

// maxAccounts bounds what is read of the image's passwd and group.
const maxAccounts = 1 << 20

func eachLine(file string, line func([]string)) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading accounts: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	for s.Scan() {
		line(strings.Split(s.Text(), ":"))
	}
	return s.Err()
}

// ordinary are the capabilities of a container that isn't privileged: what
// others' runtimes give, without making device nodes and changing roots.
const ordinary = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_KILL |
	1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_AUDIT_WRITE

// giveUp changes the user and drops capabilities, on this thread.
func (s spec) giveUp(a account) error {
	if !s.Privileged {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if ordinary&(1<<c) != 0 {
				continue
			}
			// EINVAL: a capability that this kernel doesn't have yet.
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("dropping capability %d: %w", c, err)
			}
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("setting no_new_privs: %w", err)
		}
	}
	// syscall's versions act on every thread; x/sys has none.
	if err := syscall.Setgroups(a.groups); err != nil {
		return fmt.Errorf("setting groups: %w", err)
	}
	if err := syscall.Setgid(a.gid); err != nil {
		return fmt.Errorf("setting group: %w", err)
	}
	if err := syscall.Setuid(a.uid); err != nil {
		return fmt.Errorf("setting user: %w", err)
	}
	if s.Privileged || a.uid != 0 {
		return nil // setuid to another user has cleared them
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	const low = uint32(ordinary & 0xffffffff)
	data := [2]unix.CapUserData{{Effective: low, Permitted: low}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}
