package rescue

import (
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// group is a control group (version 2) of everything that sessions start, so
// that nothing outlives the action. Its zero value does nothing.
type group struct {
	dir string
	f   *os.File
}

// newGroup makes one below root. Without cgroup2, or without the right to use
// it, the group is empty.
func newGroup(root, name string) *group {
	var st unix.Statfs_t
	if root == "" || unix.Statfs(root, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return &group{}
	}
	dir := filepath.Join(root, "bedplate-rescue-"+filepath.Base(name))
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return &group{}
	}
	f, err := os.Open(dir)
	if err != nil {
		_ = os.Remove(dir)
		return &group{}
	}
	return &group{dir, f}
}

// attributes has a process start in the group.
func (g *group) attributes(a *syscall.SysProcAttr) *syscall.SysProcAttr {
	if g.f != nil {
		a.UseCgroupFD, a.CgroupFD = true, int(g.f.Fd())
	}
	return a
}

// kill ends every process of the group (kernel 5.14).
func (g *group) kill() {
	if g.f != nil {
		_ = os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
	}
}

func (g *group) remove() {
	if g.f == nil {
		return
	}
	g.kill()
	g.f.Close()
	for range 50 {
		if err := os.Remove(g.dir); err == nil || os.IsNotExist(err) {
			return
		}
		time.Sleep(10 * time.Millisecond) // processes that are ending still count
	}
}
