package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Loader loads modules, each at most once, what it needs first. It may be
// used by any number of goroutines.
type Loader struct {
	modules *Modules
	insert  func(file string) error
	log     *slog.Logger

	mu      sync.Mutex
	started map[string]*load
}

type load struct {
	done chan struct{}
	err  error
}

// NewLoader returns a loader of the modules; insert puts one file into the
// kernel and is InsertModule outside tests.
func NewLoader(m *Modules, insert func(file string) error, log *slog.Logger) *Loader {
	return &Loader{modules: m, insert: insert, log: log, started: map[string]*load{}}
}

// InsertModule is finit_module(2). A module that is there already is no error.
// Compressed files are left to the kernel (5.17 and later).
func InsertModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading %s: %w", filepath.Base(file), err)
	}
	return nil
}

// Load loads the modules that name resolves to; one that is built in is there
// already. An unknown name is ErrNoModule.
func (l *Loader) Load(name string) error {
	names := l.modules.Resolve(name)
	if len(names) == 0 && l.modules.builtin[moduleName(name)] {
		return nil
	}
	if len(names) == 0 {
		return fmt.Errorf("%s: %w", name, ErrNoModule)
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, l.loadName(n))
	}
	return errors.Join(errs...)
}

// ErrNoModule says that no module file has that name or alias; the usual
// cause is that the kernel does without, or that the agent's system leaves it out.
var ErrNoModule = errors.New("no such module")

func (l *Loader) loadName(name string) error {
	for _, s := range l.modules.soft[name] {
		if err := l.loadFile(l.modules.path[s]); err != nil {
			l.log.Debug("loading soft dependency", "file", s, "err", err)
		}
	}
	return l.loadFile(l.modules.path[name])
}

// loadFile loads one file and first what it needs. Whoever comes second waits
// for the first. depmod's lists are free of cycles.
func (l *Loader) loadFile(file string) error {
	if file == "" {
		return nil
	}
	l.mu.Lock()
	ld, ok := l.started[file]
	if !ok {
		ld = &load{done: make(chan struct{})}
		l.started[file] = ld
	}
	l.mu.Unlock()
	if ok {
		<-ld.done
		return ld.err
	}
	defer close(ld.done)
	deps := l.modules.depends[file]
	for i := len(deps) - 1; i >= 0; i-- {
		if err := l.loadFile(deps[i]); err != nil {
			ld.err = err
			return err
		}
	}
	ld.err = l.insert(filepath.Join(l.modules.dir, file))
	return ld.err
}

// Loaded returns how many modules were loaded or tried.
func (l *Loader) Loaded() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.started)
}

// passes bounds Coldplug: each driver may bring up a bus with new devices
// (virtio_pci, then virtio_blk; a hub behind xhci), which takes two or three.
const passes = 5

// Coldplug loads the modules of every device that sysfs shows under devices,
// again until a pass finds nothing new. A module that fails (a driver whose
// firmware is missing) is logged and doesn't stop the rest.
func (l *Loader) Coldplug(ctx context.Context, devices string) {
	seen := map[string]bool{}
	for range passes {
		var fresh []string
		for _, a := range modaliases(devices) {
			if !seen[a] {
				seen[a] = true
				fresh = append(fresh, a)
			}
		}
		if len(fresh) == 0 || ctx.Err() != nil {
			return
		}
		slices.SortStableFunc(fresh, func(a, b string) int { return urgency(a) - urgency(b) })
		l.loadAll(ctx, fresh)
	}
}

// urgency puts what the way to the server needs first, then disks: the rest
// can load while a lease is asked for.
func urgency(modalias string) int {
	switch {
	case strings.HasPrefix(modalias, "virtio:d00000001"), strings.Contains(modalias, "bc02sc"): // PCI class 2: network
		return 0
	case strings.HasPrefix(modalias, "virtio:"), strings.Contains(modalias, "bc01sc"): // PCI class 1: mass storage
		return 1
	default:
		return 2
	}
}

// loadAll loads for several devices at once: a storage controller's driver
// may take seconds in its probe, with the CPU idle.
func (l *Loader) loadAll(ctx context.Context, names []string) {
	work := make(chan string)
	var wg sync.WaitGroup
	for range min(8, 2*runtime.NumCPU()) {
		wg.Go(func() {
			for n := range work {
				if err := l.Load(n); err != nil && !errors.Is(err, ErrNoModule) {
					l.log.Warn("module not loaded", "file", n, "err", err)
				}
			}
		})
	}
	for _, n := range names {
		if ctx.Err() != nil {
			break
		}
		work <- n
	}
	close(work)
	wg.Wait()
}

func modaliases(devices string) []string {
	var all []string
	// Errors are those of devices that vanish during the walk.
	_ = filepath.WalkDir(devices, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" || d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(p)
		if s := strings.TrimSpace(string(b)); err == nil && s != "" {
			all = append(all, s)
		}
		return nil
	})
	return all
}

// ModulesDir is where the running kernel's modules are, under root (/lib/modules).
func ModulesDir(root string) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("asking the kernel's release: %w", err)
	}
	return filepath.Join(root, unix.ByteSliceToString(u.Release[:])), nil
}

// Modprobe is what the kernel calls when it wants a module itself
// (/proc/sys/kernel/modprobe): modprobe -q -- NAME...
func Modprobe(args []string, log *slog.Logger) error {
	dir, err := ModulesDir("/lib/modules")
	if err != nil {
		return err
	}
	m, err := ReadModules(dir)
	if err != nil {
		return err
	}
	l := NewLoader(m, InsertModule, log)
	var errs []error
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			errs = append(errs, l.Load(a))
		}
	}
	return errors.Join(errs...)
}

// InstallModprobe makes the kernel's own requests for modules run program.
func InstallModprobe(program string) error {
	const link = "/sbin/modprobe"
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return fmt.Errorf("making folder for modprobe: %w", err)
	}
	if err := os.Symlink(program, link); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("linking modprobe: %w", err)
	}
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(link), 0o644); err != nil {
		return fmt.Errorf("naming modprobe to the kernel: %w", err)
	}
	return nil
}
