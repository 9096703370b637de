package boot

import (
	"context"
	"errors"
	"fmt"
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

// installed is a disk with a boot partition, a root partition and one that
// can't be mounted.
type installed struct {
	folders map[string]string // by device
	open    int
}

func newInstalled(t *testing.T, files map[string]string) *installed {
	t.Helper()
	i := &installed{folders: map[string]string{"/dev/vda1": t.TempDir(), "/dev/vda2": t.TempDir()}}
	for name, content := range files {
		device, name, _ := strings.Cut(name, ":")
		path := filepath.Join(i.folders[device], name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

func (i *installed) partitions(context.Context, string) ([]Partition, error) {
	return []Partition{{Number: 1, Device: "/dev/vda1", UUID: "boot-uuid"}, {Number: 2, Device: "/dev/vda2", UUID: "root-uuid"}, {Number: 3, Device: "/dev/vda3"}}, nil
}

func (i *installed) mount(_ context.Context, device string) (string, func() error, error) {
	dir, ok := i.folders[device]
	if !ok {
		return "", nil, errors.New("damaged")
	}
	i.open++
	return dir, func() error { i.open--; return nil }, nil
}

func TestMachine_Kexec_Disk(t *testing.T) {
	disk := newInstalled(t, map[string]string{
		"/dev/vda1:grub/grub.cfg": "menuentry Linux {\n search --fs-uuid --set=root boot-uuid\n linux /vmlinuz root=UUID=root-uuid ro\n initrd /microcode /initrd\n}\n",
		"/dev/vda1:vmlinuz":       "kernel", "/dev/vda1:microcode": "micro", "/dev/vda1:initrd": "initrd",
	})
	bad := newInstalled(t, nil)
	refuses := errors.New("not signed")
	for _, tt := range []struct {
		name    string
		disk    *installed
		root    map[string]string // files below /
		with    map[string]any
		images  map[string]any
		load    error // what the kernel says to it
		jump    error
		want    string // loaded
		went    string
		outputs string
		fails   string
	}{
		{name: "the default of the boot loader, from its own partition", disk: disk, want: "kernel|microinitrd|root=UUID=root-uuid ro", went: "kexec", outputs: "kexec"},
		{name: "with a restart if it does not come up", disk: disk, with: map[string]any{"otherwise": "reboot"}, want: "kernel|microinitrd|root=UUID=root-uuid ro panic=30", went: "kexec", outputs: "kexec"},
		{name: "nothing to boot is an error", disk: bad, fails: "no boot loader's configuration was found"},
		{name: "nothing to boot is a restart", disk: bad, with: map[string]any{"otherwise": "reboot"}, went: "restart", outputs: "reboot: looking for the kernel"},
		{name: "a kernel that is refused is a restart", disk: disk, with: map[string]any{"otherwise": "reboot"}, load: refuses, want: "kernel|microinitrd|root=UUID=root-uuid ro panic=30", went: "restart", outputs: "reboot: not signed"},
		{name: "a jump that is refused is a restart", disk: disk, with: map[string]any{"otherwise": "reboot"}, jump: errors.New("busy"), want: "kernel|microinitrd|root=UUID=root-uuid ro panic=30", went: "kexec restart", outputs: "kexec"},
		{name: "not to be tried", disk: disk, with: map[string]any{"otherwise": "reboot", "try": false}, went: "restart", outputs: "reboot: kexec is not wanted"},
		{name: "an image that wants a restart", disk: disk, with: map[string]any{"otherwise": "reboot"}, images: map[string]any{"debian": map[string]any{"handover": "reboot"}}, went: "restart", outputs: "reboot: kexec is not safe here: image debian"},
		{name: "firmware settings that wait", disk: disk, root: map[string]string{"sys/class/firmware-attributes/thinklmi/attributes/pending_reboot": "1\n"}, with: map[string]any{"otherwise": "reboot"}, went: "restart", outputs: "reboot: kexec is not safe here: firmware settings"},
		{name: "a capsule that waits", disk: disk, root: map[string]string{"sys/firmware/efi/efivars/OsIndications" + efiGlobal: "\x07\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00"}, with: map[string]any{"otherwise": "reboot"}, went: "restart", outputs: "reboot: kexec is not safe here: the firmware has something to do"},
		{name: "another boot that is wanted next", disk: disk, root: map[string]string{"sys/firmware/efi/efivars/BootNext" + efiGlobal: "\x07\x00\x00\x00\x03\x00"}, with: map[string]any{"otherwise": "reboot"}, went: "restart", outputs: "reboot: kexec is not safe here: the firmware is to boot something else next (BootNext is 0003)"},
		{name: "a driver whose devices don't survive", disk: disk, root: map[string]string{"sys/bus/pci/devices/0000:03:00.0/driver": "-> ../../drivers/mlx4_core"}, with: map[string]any{"otherwise": "reboot"}, went: "restart", outputs: "reboot: kexec is not safe here: device 0000:03:00.0 has the driver mlx4_core"},
		{name: "an ordinary driver", disk: disk, root: map[string]string{"sys/bus/pci/devices/0000:03:00.0/driver": "-> ../../drivers/ixgbe"}, with: map[string]any{"otherwise": "reboot"}, want: "kernel|microinitrd|root=UUID=root-uuid ro panic=30", went: "kexec", outputs: "kexec"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range tt.root {
				path := filepath.Join(root, name)
				err := os.MkdirAll(filepath.Dir(path), 0o755)
				if target, ok := strings.CutPrefix(content, "-> "); ok {
					err = errors.Join(err, os.Symlink(target, path))
				} else {
					err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			var loaded, went []string
			m := Machine{Root: root, Temp: t.TempDir(), Partitions: tt.disk.partitions, Mount: tt.disk.mount,
				Load: func(kernel, initrd, cmdline string) error {
					for _, f := range []string{kernel, initrd} {
						b, err := os.ReadFile(f)
						if err != nil {
							return err
						}
						loaded = append(loaded, string(b))
					}
					loaded = append(loaded, cmdline)
					return tt.load
				},
				Leave: func(w system.Way) error {
					if w == system.Restart {
						went = append(went, "restart")
						return nil
					}
					went = append(went, "kexec")
					return tt.jump
				},
			}
			with := map[string]any{"disk": "/dev/vda"}
			for k, v := range tt.with {
				with[k] = v
			}
			r, err := m.Kexec(t.Context(), step.Request{With: with, Images: tt.images}, quiet{})
			if tt.disk.open != 0 {
				t.Errorf("%d file systems are still mounted", tt.disk.open)
			}
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(loaded, "|"); got != tt.want {
				t.Errorf("loaded %q, want %q", got, tt.want)
			}
			handover, reason := fmt.Sprint(r.Outputs["handover"]), fmt.Sprint(r.Outputs["reason"])
			if reason != "" {
				handover += ": " + reason
			}
			if !strings.HasPrefix(handover, tt.outputs) {
				t.Errorf("outputs say %q, want %q", handover, tt.outputs)
			}
			_ = r.Leave.Do() // what it returns is told by the runner
			if got := strings.Join(went, " "); got != tt.went || r.Leave.NextBoot != step.NextBootDisk {
				t.Errorf("went %q to %s, want %q", got, r.Leave.NextBoot, tt.went)
			}
			if by := r.Leave.By; (by == step.ByKexec) != strings.HasPrefix(tt.went, "kexec") {
				t.Errorf("it says that it goes by %q", by)
			}
		})
	}
}
