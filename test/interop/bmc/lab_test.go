package bmc

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/dial"
	"github.com/bedplate/bedplate/bmc/vendor"
	"github.com/bedplate/bedplate/lab"
	"github.com/bedplate/bedplate/lab/board"
	"github.com/bedplate/bedplate/machine"
)

var dialer = dial.Dialer{Now: time.Now}

// rig is one virtual BMC of the lab with a simulated machine.
type rig struct {
	bmc     *lab.BMC
	machine *lab.Simulated
	target  bmc.Target
}

// start starts a BMC with the faults, spoken to by protocol.
func start(t *testing.T, protocol bmc.Protocol, faults ...string) *rig {
	t.Helper()
	f, err := lab.NewFleet(t.Context(), lab.FleetConfig{Count: 1, Dir: t.TempDir(), UEFI: true, Faults: faults, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	r := &rig{bmc: f.BMCs()[0], machine: f.Machines()[0]}
	user, password := r.bmc.Login()
	r.target = bmc.Target{
		Machine: "sim", Protocol: protocol, Username: user, Password: password,
		Address: strings.TrimPrefix(r.bmc.Redfish(), "https://"), TLS: bmc.TLS{Pin: bmc.PinOf(r.bmc.Certificate())},
	}
	_, port, err := net.SplitHostPort(r.bmc.IPMI())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	r.target.IPMIPort = uint16(n)
	if protocol == bmc.ProtocolIPMI {
		r.target.Address, r.target.TLS = r.bmc.IPMI(), bmc.TLS{}
	}
	return r
}

// images serves a medium and a firmware image.
func images(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/agent.iso", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 64<<10)) })
	mux.HandleFunc("/bios.bin", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(board.FirmwareImage(board.FirmwareBIOS, "9.9"))
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// setup is the rig as the suite wants it.
func (r *rig) setup(t *testing.T) bmctest.Setup {
	t.Helper()
	h := r.machine.Hardware()
	files := images(t)
	id := bmc.Identity{UUID: machine.UUID(h.UUID), Serial: h.Serial, Manufacturer: h.Manufacturer, Product: h.Model}
	for _, nic := range h.NICs {
		if mac, err := machine.ParseMAC(nic.MAC); err == nil && r.target.Protocol != bmc.ProtocolIPMI {
			id.MACs = append(id.MACs, mac)
		}
	}
	return bmctest.Setup{
		Target: r.target, Dial: dialer.Dial, Identity: id, Soft: true, Echo: true,
		Image: files.URL + "/agent.iso", FirmwareURI: files.URL + "/bios.bin",
		FirmwareImage: string(board.FirmwareImage(board.FirmwareBIOS, "9.9")),
		BIOS:          map[string]string{board.SettingMenu: board.SettingEnabled, board.SettingCores: "1"},
		Devices:       []bmc.BootDevice{bmc.BootNetwork, bmc.BootDisk, bmc.BootCD, bmc.BootUSB, bmc.BootSetup},
		Modes:         []bmc.BootMode{bmc.ModeUEFI},
		Machine: bmctest.Machine{
			Power: func() bmc.PowerState {
				if r.machine.On() {
					return bmc.PowerOn
				}
				return bmc.PowerOff
			},
			Media: func(kind bmc.MediaKind) string {
				return r.machine.Media(map[bmc.MediaKind]board.Drive{bmc.MediaCD: board.CD, bmc.MediaUSB: board.USB}[kind]).Image
			},
		},
	}
}

func TestLab(t *testing.T) {
	common := []bmctest.Capability{
		bmctest.Login, bmctest.Power, bmctest.NMI, bmctest.Boot, bmctest.Identity, bmctest.Inventory, bmctest.Sensors,
		bmctest.HealthReport, bmctest.EventLog, bmctest.Firmware, bmctest.Users, bmctest.Manager,
	}
	redfish := []bmctest.Capability{bmctest.HTTPBoot, bmctest.VirtualMedia, bmctest.Update, bmctest.BIOS}
	for _, c := range []struct {
		protocol bmc.Protocol
		required []bmctest.Capability
	}{
		{bmc.ProtocolRedfish, redfish},
		{bmc.ProtocolIPMI, []bmctest.Capability{bmctest.Console}},
		{bmc.ProtocolAuto, append(redfish, bmctest.Console)},
	} {
		t.Run(c.protocol.String(), func(t *testing.T) {
			bmctest.Run(t, func(t *testing.T) bmctest.Setup { return start(t, c.protocol).setup(t) }, append(c.required, common...)...)
		})
	}
}

// TestLab_Vendor has bmclib's generic provider drive the lab's BMC, as far as it goes.
func TestLab_Vendor(t *testing.T) {
	bmctest.Run(t, func(t *testing.T) bmctest.Setup { return vendorSetup(t, vendor.Gofish) },
		bmctest.Login, bmctest.Power, bmctest.NMI, bmctest.Boot, bmctest.Identity, bmctest.Inventory, bmctest.Firmware, bmctest.Manager)
}

func vendorSetup(t *testing.T, provider string) bmctest.Setup {
	s := start(t, bmc.ProtocolRedfish).setup(t)
	s.Identity.UUID, s.Identity.MACs = "", nil // the library's inventory has none of the lab's
	s.Dial = func(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
		d, err := vendor.Dial(ctx, provider, t, time.Now)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	return s
}

// TestLab_VendorUpdate pushes firmware by bmclib's provider for OpenBMC, in
// front of which the lab's BMC has OpenBMC's web page.
func TestLab_VendorUpdate(t *testing.T) {
	s := vendorSetup(t, vendor.OpenBMC)
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: s.Target.Address})
	config, _, err := s.Target.ClientTLS(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	behind.Transport = transport
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" || r.URL.Path == "" {
			_, _ = w.Write([]byte("<title>OpenBMC</title>"))
			return
		}
		behind.ServeHTTP(w, r)
	}))
	defer front.Close()
	s.Target.Address, s.Target.TLS.Pin = strings.TrimPrefix(front.URL, "https://"), bmc.PinOf(front.Certificate())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // the provider wants ten left
	defer cancel()
	d, err := s.Dial(ctx, s.Target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	push := func(version string) (bmc.TaskID, error) {
		image := board.FirmwareImage(board.FirmwareBIOS, version)
		return d.UpdateFirmware(ctx, bmc.FirmwareUpdate{Image: bytes.NewReader(image), Size: int64(len(image)), Targets: []string{"BIOS"}})
	}
	if err := d.RequestPower(ctx, bmc.ActionOn); err != nil {
		t.Fatal(err)
	}
	if _, err := push("9.9"); err == nil || !strings.Contains(err.Error(), "power off") {
		t.Errorf("while the machine is on: %v", err)
	}
	if err := d.RequestPower(ctx, bmc.ActionOff); err != nil {
		t.Fatal(err)
	}
	id, err := push("9.9")
	if err != nil {
		t.Fatal(err)
	}
	c := bmc.NewClient(d, bmc.Wait{Poll: 20 * time.Millisecond, Task: time.Minute}, time.Now)
	if end, err := c.WaitTask(ctx, id, func(bmc.Task) {}); err != nil || end.State != bmc.TaskSucceeded {
		t.Fatalf("task %s: %+v, %v", id, end, err)
	}
	all, err := d.Firmware(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(f bmc.FirmwareComponent) bool { return f.ID == "BIOS" && f.Version == "9.9" }) {
		t.Errorf("afterwards it has %+v", all)
	}
}

// TestLab_Events has the lab's BMC tell of a machine that is switched on by hand.
func TestLab_Events(t *testing.T) {
	r := start(t, bmc.ProtocolAuto)
	p := pool(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	told := make(chan bmc.Event, 64)
	opened := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- p.Watch(ctx, r.target, func() { close(opened) }, func(e bmc.Event) { told <- e }) }()
	select {
	case <-opened:
	case err := <-ended:
		t.Fatal(err)
	}
	err := p.Do(ctx, r.target, func(ctx context.Context, c *bmc.Client) error {
		_, err := c.SetPower(ctx, bmc.ActionOn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-told:
		if e.Time.IsZero() || e.Message == "" || e.Severity != bmc.HealthOK {
			t.Errorf("it told %+v", e)
		}
	case err := <-ended:
		t.Fatalf("the stream has ended: %v", err)
	case <-ctx.Done():
		t.Fatal("it told nothing")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("listening ended with %v", err)
	}
}

// pool returns a pool with waits that suit a test.
func pool(t *testing.T) *bmc.Pool {
	t.Helper()
	p, err := bmc.NewPool(bmc.Config{
		Dial: dialer.Dial, Now: time.Now, Rand: func() float64 { return 0 }, Backoff: 10 * time.Millisecond, DialTimeout: 3 * time.Second,
		Wait: bmc.Wait{Poll: 20 * time.Millisecond, PowerOn: 2 * time.Second, PowerOff: 2 * time.Second, ReadBack: time.Second, OffTime: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return p
}

func TestLab_Faults(t *testing.T) {
	on := func(ctx context.Context, c *bmc.Client) error {
		_, err := c.SetPower(ctx, bmc.ActionOn)
		return err
	}
	for _, protocol := range []bmc.Protocol{bmc.ProtocolRedfish, bmc.ProtocolIPMI} {
		for name, c := range map[string]struct {
			fault string
			call  func(ctx context.Context, c *bmc.Client) error
			want  error
		}{
			"a slow BMC is waited for":                     {"slow=200ms", on, nil},
			"a session that is dropped is opened anew":     {"dropped-sessions", on, nil},
			"a BMC that answers errors is failing":         {"error", on, bmc.ErrFailing},
			"a BMC that tells the opposite is found out":   {"wrong-power-state", func(ctx context.Context, c *bmc.Client) error { _, err := c.SetPower(ctx, bmc.ActionOff); return err }, bmc.ErrPowerState},
			"a BMC that never answers is unreachable":      {"dead", on, bmc.ErrUnreachable},
			"a BMC that refuses the password is not asked": {"unauthorized", on, bmc.ErrAuth},
		} {
			t.Run(protocol.String()+": "+name, func(t *testing.T) {
				t.Parallel() // they wait, each for itself
				r := start(t, protocol, c.fault)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				err := pool(t).Retry(ctx, r.target, c.call)
				if !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("error is %v, want %v", err, c.want)
				}
				if c.want == nil && err == nil && !r.machine.On() {
					t.Error("the machine is off")
				}
			})
		}
	}
}

func TestLab_SessionsEnd(t *testing.T) {
	r := start(t, bmc.ProtocolRedfish)
	t.Run("a pool that ends leaves no session behind", func(t *testing.T) {
		p := pool(t)
		for range 3 {
			if err := p.Do(t.Context(), r.target, func(ctx context.Context, c *bmc.Client) error { _, err := c.PowerState(ctx); return err }); err != nil {
				t.Fatal(err)
			}
		}
		if n, _ := r.bmc.Sessions(); n != 1 {
			t.Errorf("%d sessions are open while the pool runs, want 1", n)
		}
	})
	if n, _ := r.bmc.Sessions(); n != 0 {
		t.Errorf("%d sessions are open after the pool has ended, want none", n)
	}
}
