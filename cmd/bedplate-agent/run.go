package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/bedplate/bedplate/agent"
	"github.com/bedplate/bedplate/agent/hardware"
	"github.com/bedplate/bedplate/agent/inventory"
	"github.com/bedplate/bedplate/agent/logs"
	"github.com/bedplate/bedplate/agent/network"
	"github.com/bedplate/bedplate/agent/system"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// ringLines is how much of what the agent said logs.collect can send.
const ringLines = 2000

// machine is what the parts of the agent share.
type machine struct {
	opts      system.Options
	say       func(format string, args ...any)
	log       *slog.Logger
	ring      *logs.Ring
	console   *system.Console
	collector *inventory.Collector
	network   *network.Manager
	loader    *system.Loader
	settled   chan struct{} // closed when the drivers are loaded
	identity  identity
}

// run is the agent proper. When it can't go on it says why and restarts the
// machine after a while.
func run(ctx context.Context) error {
	m, err := newMachine()
	if err == nil {
		m.say("bedplate-agent %s, server %s", version, m.opts.Server)
		err = m.serve(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	delay := pity
	if errors.Is(err, agent.ErrFenced) {
		delay = truce
	}
	m.say("%v", err)
	m.say("the machine restarts in %s", delay)
	if wait(ctx, delay) {
		err = errors.Join(err, m.leave(system.Restart))
	}
	return err
}

func newMachine() (*machine, error) {
	m := &machine{ring: logs.NewRing(ringLines), settled: make(chan struct{})}
	outs, err := system.OpenConsoles("/sys/class/tty/console/active", "/dev")
	if err != nil {
		outs = []io.Writer{os.Stdout}
	}
	m.console = system.NewConsole(outs...)
	m.say = system.NewPrinter(io.MultiWriter(m.console, m.ring), system.Uptime).Say
	m.collector = inventory.New(inventory.Config{Root: "/", Devices: inventory.Linux{Dev: "/dev"}, Now: time.Now, Addresses: inventory.Addresses})
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return m, fmt.Errorf("reading kernel arguments: %w", err)
	}
	m.opts, err = readOptions(string(cmdline))
	level, out := slog.LevelWarn, io.Writer(m.ring)
	if m.opts.Debug {
		level, out = slog.LevelDebug, io.MultiWriter(m.console, m.ring)
	}
	m.log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	if err != nil {
		return m, fmt.Errorf("%w\nthis system is started by Bedplate's boot script or boot medium, which say these things", err)
	}
	m.network, err = network.New(network.Config{
		Kernel: network.Linux{Sys: "/sys"}, Conns: network.LinuxConns{}, Prefer: m.opts.MAC,
		Static:     network.Static(m.opts.Static.Address, m.opts.Static.Gateway, m.opts.Static.Nameservers),
		Interfaces: interfaces(m.opts.Interfaces), Advice: advice(m.opts),
		Probe: network.Probe(m.opts.Server), Resolver: network.WriteResolver("/etc/resolv.conf"), Holder: network.Holder,
		Say: m.say, Log: m.log, Now: time.Now, Rand: mathrand.Uint32,
	})
	return m, err
}

// serve runs drivers, network and agent side by side until one of them ends.
func (m *machine) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { m.drive(ctx) })
	wg.Go(func() {
		if err := m.network.Run(ctx); ctx.Err() == nil {
			m.say("%v", err)
		}
	})
	a, err := m.newAgent()
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// drive loads the drivers of what is there and of what comes. The kernel ends
// the loading of a module only when everything that is being probed is done
// (async_synchronize_full), so that disks are there when Coldplug returns.
func (m *machine) drive(ctx context.Context) {
	settled := sync.OnceFunc(func() { close(m.settled) })
	defer settled()
	dir, err := system.ModulesDir("/lib/modules")
	if err != nil {
		m.say("%v", err)
		return
	}
	modules, err := system.ReadModules(dir)
	if err != nil {
		m.say("no drivers: %v", err)
		return
	}
	m.loader = system.NewLoader(modules, system.InsertModule, m.log)
	began := time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	if events, err := system.ListenUevents(); err != nil {
		m.say("%v", err)
	} else {
		// Beside Coldplug: a device that a bus driver has just found need not
		// wait for every other driver.
		wg.Go(func() {
			if err := m.loader.Hotplug(ctx, events, "/sys/devices"); err != nil {
				m.log.Error("listening for devices", "err", err)
			}
		})
	}
	for _, name := range m.opts.Modules {
		if err := m.loader.Load(name); err != nil {
			m.say("%v", err)
		}
	}
	m.loader.Coldplug(ctx, "/sys/devices")
	m.loadUnasked()
	m.say("%d drivers loaded in %s", m.loader.Loaded(), time.Since(began).Round(time.Millisecond))
	settled()
}

// loadUnasked loads what no device asks for: access to the management
// controller, the generic access to disks, EFI variables.
func (m *machine) loadUnasked() {
	for _, name := range []string{"ipmi_si", "ipmi_devintf", "sg", "efivarfs", "virtio_rng"} {
		if name == "ipmi_si" || name == "ipmi_devintf" {
			if !m.collector.HasBMC() {
				continue // probing for one where there is none takes a second
			}
		}
		if err := m.loader.Load(name); err != nil && !errors.Is(err, system.ErrNoModule) {
			m.log.Debug("module not loaded", "file", name, "err", err)
		}
	}
	if err := system.MountFirmwareVariables(); err != nil {
		m.log.Warn("firmware variables not mounted", "err", err)
	}
}

func (m *machine) newAgent() (*agent.Agent, error) {
	var boot [16]byte
	if _, err := rand.Read(boot[:]); err != nil {
		return nil, fmt.Errorf("making boot id: %w", err)
	}
	if err := os.MkdirAll(temp, 0o711); err != nil {
		return nil, fmt.Errorf("making folder: %w", err)
	}
	executors, err := m.executors()
	if err != nil {
		return nil, err
	}
	uuid, serial := m.collector.Identity()
	dialer := agent.Dialer{Server: m.opts.Server, CA: fmt.Sprintf("sha256:%x", m.opts.CA), Now: time.Now}
	return agent.New(agent.Config{
		Dial: dialer.Dial, Token: m.opts.Token, BootID: hex.EncodeToString(boot[:]), Version: version,
		MACs: m.macs, UUID: uuid, Serial: serial,
		Executors: executors, HTTP: client(),
		Collect: m.collect, Neighbours: func(ctx context.Context, inv *pb.Inventory) (bool, error) {
			return inventory.Neighbours(ctx, inv, inventory.LLDPWait)
		},
		Ready: m.network.Ready(), Address: func() string { return m.network.Address().String() },
		Enrolled: func(machine string, c *tls.Certificate) {
			m.identity.set(hardware.Identity{Machine: machine, Certificate: c, CA: dialer.CA})
		},
		Uptime: system.Uptime, SetClock: system.SetClock,
		Now: time.Now, Rand: rand.Reader, Jitter: mathrand.Float64, Say: m.say, Log: m.log,
	})
}

func (m *machine) collect(ctx context.Context) *pb.Inventory {
	m.awaitDrivers(ctx)
	return m.collector.Collect(ctx)
}

// awaitDrivers waits for the drivers: without them there are no disks to see.
func (m *machine) awaitDrivers(ctx context.Context) {
	select {
	case <-m.settled:
	case <-ctx.Done():
	}
}

func (m *machine) macs() []string {
	links, err := (network.Linux{Sys: "/sys"}).Links()
	if err != nil {
		return nil
	}
	var all []string
	for _, l := range links {
		all = append(all, l.MAC.String())
	}
	return all
}

// client is for everything fetched over HTTP: no time limit on the whole, for
// images take long, but on each wait for a first sign.
func client() *http.Client {
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Client{Transport: &http.Transport{
		DialContext: dialer.DialContext, TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 8, DisableCompression: true,
	}}
}

// leave lets the console finish its words and goes.
func (m *machine) leave(way system.Way) error {
	m.console.Flush(2 * time.Second)
	return system.Leave(way)
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
