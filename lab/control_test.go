package lab

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func fixedNow() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func newTestLab(t *testing.T, machines ...MachineSpec) *Lab {
	t.Helper()
	l, err := New(Config{Dir: t.TempDir(), Now: fixedNow, Spec: Spec{Machines: machines}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLab_Serve(t *testing.T) {
	l := newTestLab(t, MachineSpec{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx) }()
	remote := Remote{Dir: l.Dir()}
	var s Status
	for {
		var err error
		if s, err = remote.Status(ctx); err == nil {
			break
		}
		if !errors.Is(err, ErrDown) {
			t.Fatal(err)
		}
	}
	if s.Name != "lab" || s.PID != os.Getpid() {
		t.Errorf("status is %+v", s)
	}
	if err := remote.Power(ctx, "m7", "on"); err == nil || !strings.Contains(err.Error(), `no machine "m7"`) {
		t.Errorf("error is %v", err)
	}
	info, err := os.Stat(filepath.Join(l.Dir(), controlSocket))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may give orders: %v, %v", info.Mode(), err)
	}
	if err := remote.Down(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := remote.Power(ctx, "m1", "on"); !errors.Is(err, ErrDown) {
		t.Errorf("error after the end is %v", err)
	}
}

func TestRemote_Status(t *testing.T) {
	t.Run("a lab that never was", func(t *testing.T) {
		if _, err := (Remote{Dir: t.TempDir()}).Status(context.Background()); !errors.Is(err, ErrDown) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a lab that died is remembered, and down", func(t *testing.T) {
		l := newTestLab(t, MachineSpec{Name: "web"})
		if err := l.saveState(); err != nil {
			t.Fatal(err)
		}
		s, err := Remote{Dir: l.Dir()}.Status(context.Background())
		if err != nil || s.Up || len(s.Machines) != 1 || s.Machines[0].Name != "web" {
			t.Errorf("status is %+v, %v", s, err)
		}
	})
}

func TestClear(t *testing.T) {
	l := newTestLab(t, MachineSpec{Name: "web"})
	pid, _ := sleeper(t, t.TempDir())
	l.up = true
	if err := l.saveState(); err != nil {
		t.Fatal(err)
	}
	rewrite := func(pid int, start uint64) {
		s, err := readState(l.Dir())
		if err != nil {
			t.Fatal(err)
		}
		b := strings.ReplaceAll(mustJSON(t, s), `"pid":`+itoa(uint64(s.PID)), `"pid":`+itoa(uint64(pid)))
		b = strings.ReplaceAll(b, `"start":`+itoa(s.Start), `"start":`+itoa(start))
		if err := os.WriteFile(filepath.Join(l.Dir(), stateFile), []byte(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a lab that another process holds is not cleared", func(t *testing.T) {
		rewrite(pid, startTime(pid))
		if err := Clear(context.Background(), l.Dir()); !errors.Is(err, ErrUp) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a process that got the number later holds nothing", func(t *testing.T) {
		rewrite(pid, startTime(pid)+1)
		if err := Clear(context.Background(), l.Dir()); err != nil {
			t.Error(err)
		}
	})
	t.Run("a damaged state says which file to remove", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(l.Dir(), stateFile), []byte("{"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Clear(context.Background(), l.Dir()); err == nil || !strings.Contains(err.Error(), "remove "+l.Dir()) {
			t.Errorf("error is %v", err)
		}
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
