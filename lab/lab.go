// Package lab is a virtual rack: QEMU machines with real firmware on bridges
// in network namespaces of their own, with power control, serial consoles and
// nothing of the host's network touched. Demonstrations, end-to-end tests and
// people who want to try something out build on it.
//
//	┌ namespace of the lab ────────────────────────────┐
//	│  br0 10.77.0.1/24 ─┬─ tap0 ─ machine (BIOS)      │
//	│   bedplate serve   ├─ tap1 ─ machine (UEFI)      │   ┌ namespace of a peer ───┐
//	│   runs here        ├─ veth ─────────────────────────│ eth0, a foreign DHCP … │
//	│                    └─ veth ──┐                   │   └────────────────────────┘
//	└──────────────────────────────│───────────────────┘
//	                     ┌ namespace of a network that is behind ──────────────────┐
//	                     │ uplink, a router;  br1 10.78.0.1/24 ─── tap2 ─ machine  │
//	                     └─────────────────────────────────────────────────────────┘
//
// Namespaces have no names in /run/netns: they belong to the process that made
// them, and vanish with it and its children. Machines are children too and are
// killed when it dies, however it dies. What stays is a folder with their
// disks, firmware variables and serial logs.
//
// A router advertisement answers iPXE's solicitation at once, because builds
// with IPv6 otherwise wait up to 16 s for one before they boot.
//
// It needs CAP_NET_ADMIN, as root or as root of a user namespace (see Unprivileged).
// All methods may be called by any number of goroutines.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Config is what a lab needs.
type Config struct {
	// Dir keeps disks, logs, sockets and state; made if missing. One lab a folder.
	Dir string
	// Spec is the rack; New fills in what it leaves out.
	Spec Spec
	// Log may be nil.
	Log *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Lab is a rack. Up sets it up, Down takes it down.
type Lab struct {
	dir  string
	spec Spec
	log  *slog.Logger
	now  func() time.Time

	mu         sync.Mutex
	up         bool
	namespaces map[string]*Namespace
	machines   []*Machine
	stop       context.CancelFunc
	running    sync.WaitGroup
}

// ErrUp is what Up returns when the lab in that folder is up, here or in another process.
var ErrUp = errors.New("the lab is up already: take it down first with `bedplate lab down`")

// state is what Dir remembers between processes.
type state struct {
	Spec Spec `json:"spec"`
	// PID is of the process that holds the namespaces; 0 when the lab is down.
	PID int `json:"pid"`
	// Start is that process's start time in clock ticks since boot, which
	// tells it from a later one with the same number.
	Start uint64 `json:"start"`
	// Namespaces are paths for setns, by name.
	Namespaces map[string]string `json:"namespaces"`
	Since      time.Time         `json:"since"`
}

const stateFile = "lab.json"

// New checks the rack and returns it; nothing is started.
func New(cfg Config) (*Lab, error) {
	spec, err := cfg.Spec.complete()
	if err != nil {
		return nil, fmt.Errorf("checking the lab's definition: %w", err)
	}
	if cfg.Now == nil || cfg.Dir == "" {
		return nil, errors.New("a lab needs a folder and a clock")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the lab's folder: %w", err)
	}
	return &Lab{dir: dir, spec: spec, log: cfg.Log, now: cfg.Now, namespaces: map[string]*Namespace{}}, nil
}

// Dir is the absolute path of the lab's folder.
func (l *Lab) Dir() string { return l.dir }

// Spec returns the rack with everything filled in.
func (l *Lab) Spec() Spec { return l.spec }

// Up makes namespaces, bridges and disks. Machines stay off unless their
// definition says otherwise. What a lab that died left behind in the folder is
// cleared away first. Down must be called after Up, even when Up failed.
func (l *Lab) Up(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.up {
		return ErrUp
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return fmt.Errorf("making the lab's folder: %w", err)
	}
	if err := Clear(ctx, l.dir); err != nil {
		return err
	}
	accel, err := accelerator(ctx, l.spec.Accelerator, l.log)
	if err != nil {
		return err
	}
	l.up = true
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	if err := l.makeNetworks(run); err != nil {
		return fmt.Errorf("making the lab's network: %w", err)
	}
	if err := l.makeMachines(ctx, accel); err != nil {
		return err
	}
	if err := l.saveState(); err != nil {
		return err
	}
	for _, m := range l.machines {
		if m.spec.Power == "on" {
			if err := m.PowerOn(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) makeMachines(ctx context.Context, accel string) error {
	for i, spec := range l.spec.Machines {
		m := &Machine{
			lab: l.spec.Name, spec: spec, dir: filepath.Join(l.dir, spec.Name), taps: tapNames(i, spec), accel: accel, fallback: l.spec.Accelerator != "kvm",
			namespace: l.namespaces[l.spec.namespaceOf(spec.Network)], log: l.log, now: l.now,
		}
		l.machines = append(l.machines, m)
		if err := m.prepare(ctx); err != nil {
			return fmt.Errorf("preparing machine %s: %w", spec.Name, err)
		}
		for n, tap := range m.taps {
			network := spec.Network
			if n > 0 {
				network = spec.NICs[n-1].Network
			}
			if err := m.namespace.addTap(tap, network); err != nil {
				return fmt.Errorf("preparing machine %s: %w", spec.Name, err)
			}
		}
		if err := m.startBMC(ctx); err != nil {
			return fmt.Errorf("starting the BMC of machine %s: %w", spec.Name, err)
		}
	}
	return nil
}

// tapNames are those of machine i: tap7 for its first card, tap7n1 for a second.
func tapNames(i int, m MachineSpec) []string {
	names := []string{fmt.Sprintf("tap%d", i)}
	for n := range m.NICs {
		names = append(names, fmt.Sprintf("tap%dn%d", i, n+1))
	}
	return names
}

// Down powers off every machine and gives back the network. Disks and logs
// stay. A lab that is down already is none the worse.
func (l *Lab) Down(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return nil
	}
	var errs []error
	for _, m := range l.machines {
		m.stopBMC()
		errs = append(errs, m.PowerOff(ctx))
		m.close()
	}
	l.stop()
	l.running.Wait()
	for _, n := range l.namespaces {
		errs = append(errs, n.close())
	}
	l.machines, l.namespaces, l.up = nil, map[string]*Namespace{}, false
	errs = append(errs, l.saveState())
	return errors.Join(errs...)
}

// Machine returns the machine of that name.
func (l *Lab) Machine(name string) (*Machine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.machines {
		if m.spec.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no machine %q in lab %s: `bedplate lab list` shows those there are", name, l.spec.Name)
}

// Machines returns all machines in the order of their definition; none when the lab is down.
func (l *Lab) Machines() []*Machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.machines)
}

// Namespace returns a namespace of the lab: "" is the one that the server runs
// in, others have the name of a peer or of a network that is behind another.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.namespaces[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("no namespace %q in lab %s, or it is down", name, l.spec.Name)
}

func (l *Lab) saveState() error {
	s := state{Spec: l.spec, Since: l.now().UTC().Truncate(time.Second)}
	if l.up {
		s.PID = os.Getpid()
		s.Start = startTime(s.PID)
		s.Namespaces = map[string]string{}
		for name, n := range l.namespaces {
			s.Namespaces[name] = n.Path()
		}
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("saving the lab's state: %w", err)
	}
	temp := filepath.Join(l.dir, "."+stateFile)
	if err := os.WriteFile(temp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("saving the lab's state: %w", err)
	}
	return os.Rename(temp, filepath.Join(l.dir, stateFile))
}

func readState(dir string) (state, error) {
	var s state
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// makeNetworks makes the namespaces and what connects them.
func (l *Lab) makeNetworks(ctx context.Context) error {
	main, err := newNamespace()
	if err != nil {
		return err
	}
	l.namespaces[""] = main
	for _, n := range l.spec.Networks {
		if err := l.makeNetwork(ctx, n); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	for _, p := range l.spec.Peers {
		ns, err := newNamespace()
		if err != nil {
			return err
		}
		l.namespaces[p.Name] = ns
		parent := l.namespaces[l.spec.namespaceOf(p.Network)]
		if err := connect(parent, p.Network, ns, "eth0", netip.MustParsePrefix(p.Address)); err != nil {
			return fmt.Errorf("peer %s: %w", p.Name, err)
		}
	}
	return nil
}

func (l *Lab) makeNetwork(ctx context.Context, n Network) error {
	ns, address := l.namespaces[""], netip.MustParsePrefix(n.Address)
	if n.Behind != "" {
		var err error
		if ns, err = newNamespace(); err != nil {
			return err
		}
		l.namespaces[n.Name] = ns
	}
	if err := ns.addBridge(n.Name, address); err != nil {
		return err
	}
	if n.Behind != "" {
		if err := l.routeBehind(ns, n, address); err != nil {
			return err
		}
	}
	if n.Quiet {
		return nil
	}
	a, err := newAdvertiser(ns, n.Name, l.now)
	if err != nil {
		return err
	}
	l.running.Go(func() { a.run(ctx, l.log) })
	return nil
}

// routeBehind makes ns a router between its own network and the one in front.
func (l *Lab) routeBehind(ns *Namespace, n Network, address netip.Prefix) error {
	front, err := l.spec.network(n.Behind)
	if err != nil {
		return err
	}
	uplink := netip.MustParsePrefix(n.Uplink)
	parent := l.namespaces[l.spec.namespaceOf(front.Name)]
	if err := connect(parent, front.Name, ns, "uplink", uplink); err != nil {
		return err
	}
	if err := ns.forward(netip.MustParsePrefix(front.Address).Addr()); err != nil {
		return err
	}
	return parent.addRoute(address.Masked(), uplink.Addr())
}

// Clear ends what a lab that died without Down left running in dir. It returns
// ErrUp if the lab's process is alive.
func Clear(ctx context.Context, dir string) error {
	s, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the lab's state (remove %s if it is beyond repair): %w", filepath.Join(dir, stateFile), err)
	}
	if s.PID != 0 && s.PID != os.Getpid() && s.Start != 0 && startTime(s.PID) == s.Start {
		return ErrUp
	}
	for _, m := range s.Spec.Machines {
		if err := killStray(ctx, filepath.Join(dir, m.Name)); err != nil {
			return fmt.Errorf("ending machine %s: %w", m.Name, err)
		}
	}
	return nil
}
