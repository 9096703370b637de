package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/system"
)

// maxProcesses keeps a fork bomb from taking the agent with it.
const maxProcesses = 32768

// cgroup is a control group (version 2) of one container.
type cgroup struct {
	dir string
	f   *os.File
}

var errNoLimit = errors.New("no cgroup2 with a memory controller")

// group makes the container's group with its limits.
func (x *Executor) group(name string) (*cgroup, error) {
	var st unix.Statfs_t
	if x.Cgroup == "" || x.MemoryLimit == 0 || unix.Statfs(x.Cgroup, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, errNoLimit
	}
	parent := filepath.Join(x.Cgroup, "bedplate")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("making control group: %w", err)
	}
	for _, dir := range []string{x.Cgroup, parent} {
		if err := system.EnableControllers(dir); err != nil {
			return nil, err
		}
	}
	g := &cgroup{dir: filepath.Join(parent, name)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making control group: %w", err)
	}
	err := errors.Join(
		g.set("memory.max", strconv.FormatInt(x.MemoryLimit, 10)),
		g.set("memory.oom.group", "1"), // all of it ends, not its largest part
		g.set("pids.max", strconv.Itoa(maxProcesses)),
	)
	if err == nil {
		g.f, err = os.Open(g.dir)
	}
	if err != nil {
		_ = os.Remove(g.dir)
		return nil, fmt.Errorf("limiting control group: %w", err)
	}
	return g, nil
}

func (g *cgroup) set(name, value string) error {
	return os.WriteFile(filepath.Join(g.dir, name), []byte(value), 0o644)
}

func (g *cgroup) fd() int { return int(g.f.Fd()) }

// outOfMemory reports whether the kernel killed something for the limit.
func (g *cgroup) outOfMemory() bool {
	b, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// remove ends what is left in the group and removes it.
func (g *cgroup) remove() {
	g.f.Close()
	_ = g.set("cgroup.kill", "1") // kernel 5.14; the PID namespace has ended them before
	for range 50 {
		if err := os.Remove(g.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond) // processes that are ending still count
	}
}
