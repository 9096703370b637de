package system

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// noControllingTTY keeps a console from becoming the process's terminal, with
// its Ctrl-C.
const noControllingTTY = unix.O_NOCTTY

// Way is a way for a machine to end this boot.
type Way int

// The ways.
const (
	Restart  Way = unix.LINUX_REBOOT_CMD_RESTART
	PowerOff Way = unix.LINUX_REBOOT_CMD_POWER_OFF
	// Kexec jumps to the kernel that kexec_file_load(2) has put in place.
	Kexec Way = unix.LINUX_REBOOT_CMD_KEXEC
)

// syncLimit bounds the wait for disks: one that has died must not keep a
// machine from going down.
const syncLimit = 60 * time.Second

// Leave writes back what is not on the disks yet, unmounts what is mounted on
// them, and goes. It returns only if the kernel refuses.
func Leave(way Way) error {
	done := make(chan struct{})
	go func() { // on a dead disk this hangs in the kernel; the machine goes down under it
		defer close(done)
		unix.Sync()
		unmountDisks("/proc/self/mounts")
		unix.Sync()
	}()
	timer := time.NewTimer(syncLimit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	if err := unix.Reboot(int(way)); err != nil {
		return fmt.Errorf("asking the kernel to leave: %w", err)
	}
	return nil
}

// unmountDisks unmounts, the last mounted first, what has a device behind it;
// what is busy is made read-only.
func unmountDisks(table string) {
	targets, err := diskMounts(table)
	if err != nil {
		return
	}
	for i := len(targets) - 1; i >= 0; i-- {
		if err := unix.Unmount(targets[i], unix.UMOUNT_NOFOLLOW); err != nil {
			_ = unix.Mount("", targets[i], "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
}

func diskMounts(table string) ([]string, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var targets []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		w := strings.Fields(s.Text())
		if len(w) >= 2 && strings.HasPrefix(w[0], "/dev/") && w[1] != "/" {
			targets = append(targets, unescapeMount(w[1]))
		}
	}
	return targets, s.Err()
}

// unescapeMount undoes the octal escapes of proc(5).
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ErrChildEnded is how Supervise reports that its child is no more.
var ErrChildEnded = errors.New("the agent has ended")

// Supervise starts program with args as a child and reaps every process that
// ends, until the child itself does. Only process 1 calls it; nothing else in
// the process may start or wait for children. The error, never nil, says how
// the child ended.
func Supervise(program string, args, env []string) error {
	child, err := os.StartProcess(program, append([]string{program}, args...), &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("waiting for the agent: %w", err)
		case pid != child.Pid:
			continue
		case status.Signaled():
			return fmt.Errorf("%w: killed by %v", ErrChildEnded, status.Signal())
		default:
			return fmt.Errorf("%w: exit code %d", ErrChildEnded, status.ExitStatus())
		}
	}
}
