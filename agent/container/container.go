// Package container is the action container: it runs an OCI image on the
// machine.
//
// The image is pulled through the server's mirror (GET /v2/REPOSITORY/...?ns=
// REGISTRY, as containerd asks a mirror), verified against its digests, and
// unpacked into a file system in memory. It runs in mount, PID, IPC and UTS
// namespaces of its own, with the machine's network or none, below a cgroup
// with a memory limit. A step that is privileged has all capabilities and sees
// every device; another has the few that ordinary programs need.
//
// The runtime is this package: the agent's own binary, run again in the new
// namespaces (Init), makes the mounts, changes the root, gives up what it has
// to and becomes the program. A separate runtime such as runc would be 10 MB
// more to send to every machine at every boot, and needs a root file system
// that pivot_root(2) works on, which an initramfs is not.
//
// Images are foreign: names in layers are resolved by the kernel inside the
// container's root (openat2, RESOLVE_IN_ROOT), sizes and counts are bounded.
package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/command"
	"github.com/bedplate/bedplate/agent/step"
)

// Executor is the action. Its zero value lacks Temp; copies must not be made
// after first use.
type Executor struct {
	// Temp is a folder for containers; each gets a tmpfs of its own there.
	Temp string
	// Cgroup is where cgroup2 is mounted; empty or without controllers:
	// containers have no memory limit, and the log says so.
	Cgroup string
	// MemoryLimit is in bytes, for processes and files together; 0: no limit.
	MemoryLimit int64
	// ResolvConf is the file with the name servers that containers get.
	ResolvConf string
	// Program is the binary whose main calls Init; /proc/self/exe when empty.
	Program string

	count atomic.Uint64
}

// options are the inputs of a step.
type options struct {
	privileged bool
	network    string
	workdir    string
	mounts     []Mount
}

// Mount is a folder or block device of the machine that a container sees.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

func parseOptions(with map[string]any) (options, error) {
	o := options{network: "host"}
	o.privileged, _ = with["privileged"].(bool)
	o.workdir, _ = with["workdir"].(string)
	if s, _ := with["network"].(string); s != "" {
		o.network = s
	}
	if o.network != "host" && o.network != "none" {
		return o, fmt.Errorf("network is %q, not host or none", o.network)
	}
	list, _ := with["mounts"].([]any)
	for i, e := range list {
		m, ok := e.(map[string]any)
		if !ok {
			return o, fmt.Errorf("mounts[%d] is no map", i)
		}
		var one Mount
		one.Source, _ = m["source"].(string)
		one.Target, _ = m["target"].(string)
		one.ReadOnly, _ = m["read_only"].(bool)
		if !filepath.IsAbs(one.Source) || !filepath.IsAbs(one.Target) {
			return o, fmt.Errorf("mounts[%d]: source and target must be absolute paths", i)
		}
		o.mounts = append(o.mounts, one)
	}
	return o, nil
}

// Execute pulls and runs the image.
func (x *Executor) Execute(ctx context.Context, req step.Request, rep step.Reporter) (result step.Result, err error) {
	opts, err := parseOptions(req.With)
	if err != nil {
		return result, err
	}
	mirror, err := newMirror(req.Server["registry"], req.HTTP)
	if err != nil {
		return result, err
	}
	dir, remove, err := x.folder()
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	rootfs := filepath.Join(dir, "rootfs")
	image, err := pull(ctx, mirror, req.Image, rootfs, rep)
	if err != nil {
		return result, fmt.Errorf("pulling %s: %w", req.Image, err)
	}
	if opts.network == "host" {
		if err := x.copyResolver(rootfs); err != nil {
			return result, err
		}
	}
	spec, err := newSpec(image, opts, req, rootfs)
	if err != nil {
		return result, err
	}
	return x.run(ctx, spec, opts, rep)
}

// folder makes a file system in memory for one container.
func (x *Executor) folder() (dir string, remove func() error, err error) {
	dir = filepath.Join(x.Temp, fmt.Sprintf("container-%d", x.count.Add(1)))
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", nil, fmt.Errorf("making folder: %w", err)
	}
	data := "mode=0711"
	if x.MemoryLimit > 0 {
		data += fmt.Sprintf(",size=%d", x.MemoryLimit)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, data); err != nil {
		_ = os.Remove(dir) // empty
		return "", nil, fmt.Errorf("mounting tmpfs: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		return "", nil, fmt.Errorf("making folder: %w", err)
	}
	return dir, func() error {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", dir, err)
		}
		return os.Remove(dir)
	}, nil
}

// copyResolver gives the container the machine's name servers.
func (x *Executor) copyResolver(rootfs string) error {
	b, err := os.ReadFile(x.ResolvConf)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading name servers: %w", err)
	}
	t, err := openTree(rootfs)
	if err != nil {
		return err
	}
	defer t.close()
	return t.writeFile("etc/resolv.conf", b, 0o644)
}

// run starts the container and waits for its end.
func (x *Executor) run(ctx context.Context, spec spec, opts options, rep step.Reporter) (step.Result, error) {
	in, err := spec.file()
	if err != nil {
		return step.Result{}, err
	}
	defer in.Close()
	status, err := memory("status")
	if err != nil {
		return step.Result{}, err
	}
	defer status.Close()
	program := x.Program
	if program == "" {
		program = "/proc/self/exe"
	}
	cmd := &exec.Cmd{Path: program, Args: []string{InitName}, Env: []string{}, Dir: "/", ExtraFiles: []*os.File{in, status}}
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if opts.network == "none" {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	group, err := x.group(filepath.Base(filepath.Dir(spec.Root)))
	if err != nil {
		rep.Log(step.Agent, fmt.Sprintf("without a memory limit: %v", err))
	} else {
		defer group.remove()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, group.fd()
	}
	rep.Log(step.Agent, "running "+strings.Join(spec.Args, " "))
	result, err := command.RunAs(ctx, spec.Args[0], cmd, rep)
	if text := readStatus(status); text != "" {
		// The program was never started: what has an exit code is our own init.
		return step.Result{}, errors.New(text)
	}
	if err != nil && group != nil && group.outOfMemory() {
		err = fmt.Errorf("%w: it needed more memory than the %d MiB that a container may have", err, x.MemoryLimit>>20)
	}
	return result, err
}

// memory is a file without a name.
func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readStatus(f *os.File) string {
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0) // the error is EOF, with whatever there is
	return string(b[:n])
}

// httpClient returns c, or the default for tests without one.
func httpClient(c *http.Client) *http.Client {
	if c == nil {
		return http.DefaultClient
	}
	return c
}
