package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/boot/entry"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/agent/system"
)

const (
	// maxFile bounds a kernel or an initramfs.
	maxFile = 2 << 30
	// maxCmdline is COMMAND_LINE_SIZE of x86-64 and arm64.
	maxCmdline = 2048
	// fetchTries is how often a transfer is begun.
	fetchTries = 4
)

// Kexec is the action boot.kexec. With: kernel, initrd, cmdline, device, disk,
// next_boot, otherwise, try.
func (m Machine) Kexec(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	next, err := nextBoot(req.With["next_boot"], step.NextBootDisk)
	if err != nil {
		return step.Result{}, err
	}
	restart := input(req, "otherwise") == "reboot"
	try, given := req.With["try"].(bool)
	switch {
	case given && !try && !restart:
		return step.Result{}, errors.New("neither kexec nor reboot is wanted: give `otherwise: reboot` with `try: false`")
	case given && !try:
		err = errUntried
	case restart:
		err = m.safe(req.Images)
	}
	if err == nil {
		err = m.prepare(ctx, req, rep)
	}
	switch {
	case err == nil:
		return m.jump(next, restart, rep), nil
	case !restart || ctx.Err() != nil:
		return step.Result{}, err
	}
	rep.Log(step.Agent, fmt.Sprintf("restarting by way of the firmware: %v", err))
	return step.Result{
		Outputs: map[string]any{"handover": "reboot", "reason": err.Error()},
		Leave:   &step.Leave{NextBoot: next, Do: func() error { return m.Leave(system.Restart) }},
	}, nil
}

var errUntried = errors.New("kexec is not wanted")

// jump goes to the loaded kernel. If this kernel refuses, the machine restarts
// instead, where that was asked for.
func (m Machine) jump(next string, restart bool, rep step.Reporter) step.Result {
	return step.Result{
		Outputs: map[string]any{"handover": "kexec", "reason": ""},
		Leave: &step.Leave{NextBoot: next, By: step.ByKexec, Do: func() error {
			err := m.Leave(system.Kexec)
			if err != nil && restart {
				rep.Log(step.Agent, fmt.Sprintf("restarting by way of the firmware: %v", err))
				err = errors.Join(err, m.Leave(system.Restart))
			}
			return err
		}},
	}
}

func input(req step.Request, name string) string {
	s, _ := req.With[name].(string)
	return s
}

// prepare loads the kernel.
func (m Machine) prepare(ctx context.Context, req step.Request, rep step.Reporter) error {
	dir, err := os.MkdirTemp(m.Temp, "kexec")
	if err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	defer os.RemoveAll(dir) // once loaded, the kernel has copies
	f := files{dir: dir, http: req.HTTP, rep: rep}
	var l loadable
	switch {
	case input(req, "disk") != "":
		if l, err = m.byDefault(ctx, &f, input(req, "disk")); err == nil && input(req, "otherwise") == "reboot" {
			l.cmdline = panicAfter(l.cmdline)
		}
	case input(req, "device") != "":
		l.kernel, l.initrd, l.cmdline, err = m.installed(ctx, &f, input(req, "device"), input(req, "kernel"), input(req, "initrd"))
	default:
		l.kernel, l.initrd, err = f.fetchBoth(ctx, input(req, "kernel"), input(req, "initrd"))
	}
	if err != nil {
		return err
	}
	if c := input(req, "cmdline"); c != "" {
		l.cmdline = c
	}
	if len(l.cmdline) >= maxCmdline {
		return fmt.Errorf("the kernel's command line has %d bytes, more than it takes", len(l.cmdline))
	}
	rep.Log(step.Agent, "command line: "+l.cmdline)
	return m.Load(l.kernel, l.initrd, l.cmdline)
}

// installed copies kernel and initramfs out of an installed system's file
// system; without names, its newest.
func (m Machine) installed(ctx context.Context, f *files, device, kernel, initrd string) (k, i, cmdline string, err error) {
	dir, unmount, err := m.Mount(ctx, device)
	if err != nil {
		return "", "", "", err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", "", "", fmt.Errorf("opening file system: %w", err)
	}
	defer root.Close()
	if kernel == "" {
		if kernel, initrd, err = newest(root); err != nil {
			return "", "", "", fmt.Errorf("looking on %s: %w", device, err)
		}
		f.rep.Log(step.Agent, "kernel "+kernel+", initramfs "+initrd)
		cmdline = "root=" + device + " ro"
	}
	if k, err = f.copyFrom(root, kernel, "kernel"); err != nil || initrd == "" {
		return k, "", cmdline, err
	}
	i, err = f.copyFrom(root, initrd, "initrd")
	return k, i, cmdline, err
}

// newest finds the kernel with the highest version in /boot (or at the top of
// a boot partition) and its initramfs.
func newest(root *os.Root) (kernel, initrd string, err error) {
	for _, dir := range []string{"boot", "."} {
		d, err := root.Open(dir)
		if err != nil {
			continue
		}
		names, err := d.Readdirnames(4096)
		d.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			continue
		}
		var kernels []string
		for _, n := range names {
			if strings.HasPrefix(n, "vmlinuz-") && !strings.Contains(n, "rescue") {
				kernels = append(kernels, n)
			}
		}
		if len(kernels) == 0 {
			continue
		}
		k := slices.MaxFunc(kernels, entry.CompareVersions)
		version := strings.TrimPrefix(k, "vmlinuz-")
		for _, i := range []string{"initrd.img-" + version, "initramfs-" + version + ".img", "initrd-" + version} {
			if slices.Contains(names, i) {
				return filepath.Join(dir, k), filepath.Join(dir, i), nil
			}
		}
		return filepath.Join(dir, k), "", nil
	}
	return "", "", errNoKernel
}

// files brings files into a folder in memory.
type files struct {
	dir  string
	http *http.Client
	rep  step.Reporter
}

func (f *files) copyFrom(root *os.Root, name, as string) (string, error) {
	in, err := root.Open(strings.TrimLeft(name, "/"))
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", as, err)
	}
	defer in.Close()
	return f.save(in, as, 0)
}

func (f *files) fetchBoth(ctx context.Context, kernel, initrd string) (k, i string, err error) {
	if kernel == "" {
		return "", "", fmt.Errorf("%w: give kernel as a URL, or device", errNoKernel)
	}
	if k, err = f.fetch(ctx, kernel, "kernel"); err != nil || initrd == "" {
		return k, "", err
	}
	i, err = f.fetch(ctx, initrd, "initrd")
	return k, i, err
}

// fetch gets a URL, again from the start if the transfer is cut: these files
// are small.
func (f *files) fetch(ctx context.Context, url, as string) (string, error) {
	wait := time.Second
	for try := 1; ; try++ {
		name, again, err := f.fetchOnce(ctx, url, as)
		if err == nil || !again || try == fetchTries || ctx.Err() != nil {
			return name, err
		}
		f.rep.Log(step.Agent, fmt.Sprintf("%v; trying again", err))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait *= 2
	}
}

func (f *files) fetchOnce(ctx context.Context, url, as string) (name string, again bool, err error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return "", false, fmt.Errorf("%s is no URL (http:// or https://); paths need device", as)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", false, fmt.Errorf("fetching %s: %w", as, err)
	}
	resp, err := f.http.Do(req)
	if err != nil {
		return "", true, fmt.Errorf("fetching %s: %w", as, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", resp.StatusCode >= 500, fmt.Errorf("fetching %s: the server answers %s", as, resp.Status)
	}
	name, err = f.save(resp.Body, as, resp.ContentLength)
	if err == nil && resp.ContentLength > 0 {
		if info, serr := os.Stat(name); serr != nil || info.Size() != resp.ContentLength {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		return "", true, fmt.Errorf("fetching %s: %w", as, err)
	}
	return name, false, nil
}

func (f *files) save(r io.Reader, as string, total int64) (string, error) {
	name := filepath.Join(f.dir, as)
	out, err := os.Create(name)
	if err != nil {
		return "", fmt.Errorf("making file: %w", err)
	}
	defer out.Close()
	n, err := io.Copy(&progress{w: out, rep: f.rep, total: total, what: as}, io.LimitReader(r, maxFile+1))
	if err == nil && n > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", as, err)
	}
	return name, out.Close()
}

type progress struct {
	w           io.Writer
	rep         step.Reporter
	done, total int64
	what        string
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.done += int64(n)
	p.rep.Progress(p.done, max(p.total, 0), "bytes", p.what)
	return n, err
}

// LoadKernel is kexec_file_load(2).
func LoadKernel(kernel, initrd, cmdline string) error {
	k, err := os.Open(kernel)
	if err != nil {
		return fmt.Errorf("opening kernel: %w", err)
	}
	defer k.Close()
	fd, flags := -1, unix.KEXEC_FILE_NO_INITRAMFS
	if initrd != "" {
		i, err := os.Open(initrd)
		if err != nil {
			return fmt.Errorf("opening initramfs: %w", err)
		}
		defer i.Close()
		fd, flags = int(i.Fd()), 0
	}
	switch err := unix.KexecFileLoad(int(k.Fd()), fd, cmdline, flags); {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENODATA), errors.Is(err, unix.EKEYREJECTED):
		return fmt.Errorf("loading kernel: %w: Secure Boot allows only kernels signed by a key that the firmware or shim knows; use machine.reboot instead", err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("loading kernel: %w: the agent's kernel does not allow kexec; use machine.reboot instead", err)
	case err != nil:
		return fmt.Errorf("loading kernel: %w", err)
	}
	return nil
}

// fileSystems are tried in order.
var fileSystems = []string{"ext4", "xfs", "btrfs", "vfat", "squashfs"}

// MountReadOnly mounts the device's file system in a new folder below temp.
func MountReadOnly(temp string) func(context.Context, string) (string, func() error, error) {
	return func(_ context.Context, device string) (string, func() error, error) {
		dir, err := os.MkdirTemp(temp, "mount")
		if err != nil {
			return "", nil, fmt.Errorf("making mount point: %w", err)
		}
		var errs []error
		for _, fs := range fileSystems {
			err := unix.Mount(device, dir, fs, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
			if err == nil {
				return dir, func() error { return errors.Join(unix.Unmount(dir, 0), os.Remove(dir)) }, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", fs, err))
		}
		_ = os.Remove(dir) // empty; in memory
		return "", nil, fmt.Errorf("mounting %s: %w", device, errors.Join(errs...))
	}
}
