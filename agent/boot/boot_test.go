package boot

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/agent/system"
)

type quiet struct{}

func (quiet) Log(string, string)                    {}
func (quiet) Progress(int64, int64, string, string) {}

func TestMachine(t *testing.T) {
	var went []system.Way
	m := Machine{Leave: func(w system.Way) error { went = append(went, w); return nil }}
	for _, c := range []struct {
		action string
		with   map[string]any
		next   string
		way    system.Way
	}{
		{"machine.reboot", nil, step.NextBootAgent, system.Restart},
		{"machine.reboot", map[string]any{"boot": "disk"}, step.NextBootDisk, system.Restart},
		{"machine.poweroff", nil, step.NextBootOff, system.PowerOff},
	} {
		went = nil
		r, err := m.Executors()[c.action].Execute(t.Context(), step.Request{With: c.with}, quiet{})
		if err != nil || r.Leave == nil || r.Leave.NextBoot != c.next || len(went) != 0 {
			t.Fatalf("%s %v: %+v, %v, went %v", c.action, c.with, r, err, went)
		}
		if err := r.Leave.Do(); err != nil || len(went) != 1 || went[0] != c.way {
			t.Errorf("%s %v: went %v, %v", c.action, c.with, went, err)
		}
	}
	if _, err := m.Reboot(t.Context(), step.Request{With: map[string]any{"boot": "moon"}}, quiet{}); err == nil {
		t.Error("booting the moon is no error")
	}
}

func TestMachine_Kexec(t *testing.T) {
	var loaded []string
	disk := t.TempDir()
	for name, content := range map[string]string{"vmlinuz-6.1.0-9-amd64": "old", "vmlinuz-6.1.0-50-amd64": "new kernel", "initrd.img-6.1.0-50-amd64": "new initrd", "vmlinuz-0-rescue": "r"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(disk, "boot"), 0o755), os.WriteFile(filepath.Join(disk, "boot", name), []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	unmounted := 0
	temp := t.TempDir()
	m := Machine{
		Temp: temp,
		Load: func(kernel, initrd, cmdline string) error {
			loaded = nil
			for _, f := range []string{kernel, initrd} {
				b, err := os.ReadFile(f)
				if f != "" && err != nil {
					return err
				}
				loaded = append(loaded, string(b))
			}
			loaded = append(loaded, cmdline)
			return nil
		},
		Mount: func(context.Context, string) (string, func() error, error) {
			return disk, func() error { unmounted++; return nil }, nil
		},
		Leave: func(system.Way) error { return nil },
	}
	tries := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/k":
			if tries++; tries == 1 {
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write([]byte("cut"))
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write([]byte("kernel"))
		case "/i":
			_, _ = w.Write([]byte("initrd"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	do := func(with map[string]any) (step.Result, error) {
		return m.Kexec(t.Context(), step.Request{With: with, HTTP: server.Client()}, quiet{})
	}
	equal := func(t *testing.T, want ...string) {
		t.Helper()
		if strings.Join(loaded, "|") != strings.Join(want, "|") {
			t.Errorf("loaded %q, want %q", loaded, want)
		}
	}
	t.Run("from URLs, though a transfer is cut", func(t *testing.T) {
		r, err := do(map[string]any{"kernel": server.URL + "/k", "initrd": server.URL + "/i", "cmdline": "quiet", "next_boot": "agent"})
		if err != nil || r.Leave.NextBoot != step.NextBootAgent {
			t.Fatalf("%+v, %v", r, err)
		}
		equal(t, "kernel", "initrd", "quiet")
	})
	t.Run("the installed system's newest", func(t *testing.T) {
		r, err := do(map[string]any{"device": "/dev/vda1"})
		if err != nil || r.Leave.NextBoot != step.NextBootDisk || unmounted != 1 {
			t.Fatalf("%+v, %v, unmounted %d times", r, err, unmounted)
		}
		equal(t, "new kernel", "new initrd", "root=/dev/vda1 ro")
	})
	t.Run("a kernel by its path", func(t *testing.T) {
		if _, err := do(map[string]any{"device": "/dev/vda1", "kernel": "/boot/vmlinuz-6.1.0-9-amd64"}); err != nil {
			t.Fatal(err)
		}
		equal(t, "old", "", "")
	})
	for want, with := range map[string]map[string]any{
		"404":                 {"kernel": server.URL + "/none"},
		"no URL":              {"kernel": "/boot/vmlinuz"},
		"no kernel found":     {},
		"opening kernel":      {"device": "/dev/vda1", "kernel": "../../etc/passwd"},
		"more than it takes":  {"device": "/dev/vda1", "cmdline": strings.Repeat("x", 5000)},
		"not a thing to boot": {"device": "/dev/vda1", "next_boot": "off"},
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := do(with); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v", err)
			}
		})
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
