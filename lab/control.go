package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bedplate/bedplate/lab/board"
)

// controlSocket is where the process that holds a lab takes orders, in the
// lab's folder. Who may open it may do everything that its owner may.
const controlSocket = "control.sock"

// Status is what is known of a lab.
type Status struct {
	Name     string          `json:"name"`
	Dir      string          `json:"dir"`
	Up       bool            `json:"up"`
	Since    time.Time       `json:"since"`
	PID      int             `json:"pid"`
	Machines []MachineStatus `json:"machines"`
	// Namespaces are paths for nsenter --net, by name; "" is the server's.
	Namespaces map[string]string `json:"namespaces"`
	Networks   []Network         `json:"networks"`
}

// MachineStatus is what is known of a machine.
type MachineStatus struct {
	MachineSpec
	On        bool   `json:"on"`
	SerialLog string `json:"serialLog"`
	// Faults are those that the machine's BMC has.
	Faults []string `json:"faults,omitempty"`
	// Fingerprint is the SHA-256 of the BMC's certificate, in hexadecimal.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// orderDeadline bounds one order; powering on a machine takes longest.
const orderDeadline = time.Minute

// maxOrder bounds what either side says.
const maxOrder = 1 << 20

// Serve takes orders from other processes until ctx is done or one of them
// takes the lab down, and then takes it down. The lab must be up.
func (l *Lab) Serve(ctx context.Context) error {
	path := filepath.Join(l.dir, controlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listening for orders: %w", err)
	}
	listener, err := listenFile(ctx, l.dir, controlSocket)
	if err != nil {
		return fmt.Errorf("listening for orders: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	server := &http.Server{Handler: l.orders(stop), ReadHeaderTimeout: orderDeadline, ReadTimeout: orderDeadline, WriteTimeout: 2 * orderDeadline}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderDeadline)
	defer cancel()
	down := l.Down(late)
	// After Down, so that whoever ordered it hears when it is done.
	shut := server.Shutdown(late)
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, down, shut)
}

// listenFile listens on a Unix socket that only its owner may open.
func listenFile(ctx context.Context, dir, name string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // read only
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
	if err != nil {
		return nil, err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	return listener, os.Chmod(filepath.Join(dir, name), 0o600)
}

func (l *Lab) orders(stop context.CancelFunc) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(l.Status()); err != nil {
			l.log.Debug("answering an order", "err", err)
		}
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, r *http.Request) {
		err := l.Down(r.Context())
		answer(w, err)
		stop()
	})
	for _, on := range []bool{true, false} {
		mux.HandleFunc(faultMethod(on)+" /machines/{name}/faults/{fault}", func(w http.ResponseWriter, r *http.Request) {
			answer(w, l.fault(r.Context(), r.PathValue("name"), r.PathValue("fault"), on))
		})
	}
	mux.HandleFunc("POST /machines/{name}/{action}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, l.order(r.Context(), r.PathValue("name"), r.PathValue("action")))
	})
	return mux
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// Actions are what `bedplate lab power` can do.
var Actions = []string{"on", "off", "reset", "cycle", "shutdown", "wipe"}

func (l *Lab) order(ctx context.Context, name, action string) error {
	m, err := l.Machine(name)
	if err != nil {
		return err
	}
	switch action {
	case "on":
		return m.PowerOn(ctx)
	case "off":
		return m.PowerOff(ctx)
	case "reset":
		return m.Reset(ctx)
	case "cycle":
		return errors.Join(m.PowerOff(ctx), m.PowerOn(ctx))
	case "shutdown":
		return m.Shutdown(ctx)
	case "wipe":
		return m.Wipe()
	}
	return fmt.Errorf("power %q: want one of %s", action, strings.Join(Actions, ", "))
}

// faultMethod is the HTTP method that gives a BMC a fault or takes it away.
func faultMethod(on bool) string {
	if on {
		return http.MethodPut
	}
	return http.MethodDelete
}

func (l *Lab) fault(ctx context.Context, name, fault string, on bool) error {
	m, err := l.Machine(name)
	if err != nil {
		return err
	}
	if m.bmc == nil {
		return fmt.Errorf("machine %s has no BMC", name)
	}
	f, err := board.ParseFault(fault)
	if err != nil {
		return err
	}
	return m.bmc.board.SetFault(ctx, f, on)
}

// Status returns what is known of the lab.
func (l *Lab) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{Name: l.spec.Name, Dir: l.dir, Up: l.up, PID: os.Getpid(), Networks: l.spec.Networks, Namespaces: map[string]string{}}
	for name, n := range l.namespaces {
		s.Namespaces[name] = n.Path()
	}
	for _, m := range l.machines {
		s.Machines = append(s.Machines, m.status())
	}
	if saved, err := readState(l.dir); err == nil {
		s.Since = saved.Since
	}
	return s
}

func (m *Machine) status() MachineStatus {
	s := MachineStatus{MachineSpec: m.spec, On: m.On(), SerialLog: m.SerialLog()}
	if m.bmc != nil {
		s.Fingerprint = m.bmc.Fingerprint()
		for _, f := range m.bmc.board.Faults() {
			s.Faults = append(s.Faults, f.String())
		}
	}
	return s
}

// Remote is a lab that another process holds.
type Remote struct {
	// Dir is the lab's folder.
	Dir string
}

// ErrDown means that no process holds the lab.
var ErrDown = errors.New("the lab is down: `bedplate lab up` starts it")

// Status asks for the lab's status. Of a lab that is down it returns what its
// folder remembers, or ErrDown if that is nothing.
func (r Remote) Status(ctx context.Context) (Status, error) {
	b, err := r.do(ctx, http.MethodGet, "/status")
	if errors.Is(err, ErrDown) {
		return r.remembered()
	}
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return Status{}, fmt.Errorf("reading the lab's status: %w", err)
	}
	return s, nil
}

func (r Remote) remembered() (Status, error) {
	saved, err := readState(r.Dir)
	if err != nil {
		return Status{}, ErrDown
	}
	s := Status{Name: saved.Spec.Name, Dir: r.Dir, Networks: saved.Spec.Networks}
	for _, m := range saved.Spec.Machines {
		s.Machines = append(s.Machines, MachineStatus{MachineSpec: m, SerialLog: filepath.Join(r.Dir, m.Name, serialLog)})
	}
	return s, nil
}

// Power does one of Actions to a machine.
func (r Remote) Power(ctx context.Context, machine, action string) error {
	_, err := r.do(ctx, http.MethodPost, "/machines/"+machine+"/"+action)
	return err
}

// Fault gives a machine's BMC a fault, or takes it away; see board.ParseFault.
func (r Remote) Fault(ctx context.Context, machine, fault string, on bool) error {
	_, err := r.do(ctx, faultMethod(on), "/machines/"+machine+"/faults/"+url.PathEscape(fault))
	return err
}

// Down takes the lab down, also one whose process died.
func (r Remote) Down(ctx context.Context) error {
	_, err := r.do(ctx, http.MethodPost, "/down")
	if errors.Is(err, ErrDown) {
		return Clear(ctx, r.Dir)
	}
	return err
}

// Console connects to a machine's serial port.
func (r Remote) Console(ctx context.Context, machine string) (net.Conn, error) {
	conn, err := dialFile(ctx, filepath.Join(r.Dir, machine), serialSocket)
	if err != nil {
		return nil, fmt.Errorf("%w: is the machine on? `bedplate lab power %s on`", err, machine)
	}
	return conn, nil
}

func (r Remote) do(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, orderDeadline)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dialFile(ctx, r.Dir, controlSocket)
		if err != nil {
			return nil, fmt.Errorf("%w (%v)", ErrDown, err)
		}
		return conn, nil
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("giving an order to the lab: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		if errors.Is(err, ErrDown) {
			return nil, ErrDown
		}
		return nil, fmt.Errorf("giving an order to the lab: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxOrder))
	if err != nil {
		return nil, fmt.Errorf("giving an order to the lab: %w", err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return nil, errors.New(string(bytes.TrimSpace(b)))
	}
	return b, nil
}
