package lab

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"regexp"
	"testing"
	"time"
)

// TestLab_Up builds a rack with everything in it and boots a machine into
// iPXE. It needs namespaces and QEMU: BEDPLATE_E2E=1.
func TestLab_Up(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("BEDPLATE_E2E is not set: no lab was built")
	}
	if err := Privileges(); err != nil {
		t.Fatal(err)
	}
	l, err := New(Config{Dir: t.TempDir(), Now: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Spec: Spec{
		Networks: []Network{{}, {Name: "far", Address: "10.78.0.1/24", Behind: "br0", Uplink: "10.77.0.2/24"}},
		Peers:    []Peer{{Name: "peer", Network: "br0", Address: "10.77.0.3/24"}},
		Machines: []MachineSpec{{Memory: 256 << 20}, {Network: "far", Disks: []DiskSpec{}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	defer func() {
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	}()
	if err := l.Up(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("hosts behind the router are reached", func(t *testing.T) { reach(ctx, t, l) })
	t.Run("a machine boots as far as iPXE, twice", func(t *testing.T) { bootTwice(ctx, t, l) })
	t.Run("a second lab in the same folder is refused", func(t *testing.T) {
		if err := l.Up(ctx); !errors.Is(err, ErrUp) {
			t.Errorf("error is %v", err)
		}
	})
}

func reach(ctx context.Context, t *testing.T, l *Lab) {
	far, err := l.Namespace("far")
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	if err := far.Do(func() error {
		var config net.ListenConfig
		listener, err = config.Listen(ctx, "tcp4", "10.78.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // a test
	here, err := l.Namespace("")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := here.Dial(ctx, "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func bootTwice(ctx context.Context, t *testing.T, l *Lab) {
	m, err := l.Machine("m1")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(ctx); !errors.Is(err, ErrPower) {
		t.Errorf("resetting a machine that is off: %v", err)
	}
	serial := m.Serial()
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	banner := regexp.MustCompile(`iPXE initialising devices`)
	if _, err := serial.WaitFor(ctx, banner); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := serial.WaitFor(ctx, banner); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerOff(ctx); err != nil || m.On() {
		t.Errorf("powering off: %v, still on: %t", err, m.On())
	}
}
