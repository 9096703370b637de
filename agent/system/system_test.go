package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bedplate/bedplate/machine"
)

func TestParseOptions(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	good := "BOOT_IMAGE=kernel console=ttyS0 bedplate.server=10.77.0.1:8444 bedplate.http=http://10.77.0.1:8080/ bedplate.token=tok=en bedplate.ca=sha256:" + digest

	t.Run("everything", func(t *testing.T) {
		got, err := ParseOptions(good + ` bedplate.mac=52-54-00-77-00-01 bedplate.ip=10.0.0.5/24,10.0.0.1,10.0.0.2,10.0.0.3 "bedplate.modules=a,b" bedplate.debug` + "\n")
		if err != nil {
			t.Fatal(err)
		}
		want := Options{
			Server: "10.77.0.1:8444", HTTP: "http://10.77.0.1:8080", Token: "tok=en", CA: [32]byte(bytes.Repeat([]byte{0xab}, 32)),
			MAC: machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}, Debug: true, Modules: []string{"a", "b"},
			Static: StaticAddress{Address: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1"), Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}},
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("options (-want +got):\n%s", diff)
		}
	})
	t.Run("a static address without a gateway", func(t *testing.T) {
		got, err := ParseOptions(good + " bedplate.ip=10.0.0.5/24")
		if err != nil || got.Static.Gateway.IsValid() || got.Static.Address.Bits() != 24 {
			t.Errorf("%+v, %v", got.Static, err)
		}
	})
	for args, want := range map[string]string{
		"":                              "bedplate.server",
		good + " bedplate.token=":       "bedplate.token: missing",
		good + " bedplate.ca=sha256:12": "bedplate.ca: not sha256: and 64 hexadecimal digits",
		good + " bedplate.ca=sha256:" + strings.Repeat("zz", 32): "bedplate.ca: parsing digest",
		good + " bedplate.http=ftp://x":                          "bedplate.http: not an http:// URL",
		good + " bedplate.mac=1":                                 "bedplate.mac",
		good + " bedplate.ip=10.0.0.5":                           "bedplate.ip: parsing address",
		good + " bedplate.ip=10.0.0.5/24,x":                      "bedplate.ip: parsing gateway",
		good + " bedplate.ip=10.0.0.5/24,,x":                     "bedplate.ip: parsing name server",
	} {
		if _, err := ParseOptions(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", args, err, want)
		}
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add(`a="b c" bedplate.ip=1.2.3.4/8,,`)
	f.Fuzz(func(_ *testing.T, s string) { _, _ = ParseOptions(s) })
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"pci:v00001AF4d00001041sv*sd*bc*sc*i*", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00", true},
		{"pci:v00001AF4d00001041sv*sd*bc*sc*i*", "pci:v00001AF4d00001042sv00001AF4sd00001100bc02sc00i00", false},
		{"virtio:d00000001v*", "virtio:d00000001v00001AF4", true},
		{"a*b*c", "axxbyybzzc", true},
		{"a*b*c", "axxbyybzz", false},
		{"usb:v[0-9]*", "usb:v5x", true},
		{"usb:v[!0-9]*", "usb:v5x", false},
		{"x?z", "xyz", true},
		{"x?z", "xz", false},
		{"acpi*:IPI0001:*", "acpi:IPI0001:", true},
		{"*", "", true},
		{"[", "[", true},
		{"of:N*T*Ca/b*", "of:NxTyCa/bz", true},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("match(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a*[b-d]?", "axxc1")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 200 || len(name) > 200 {
			return
		}
		match(pattern, name)
		if !match("*", name) {
			t.Error("a star does not match")
		}
	})
}

// modulesTree is /lib/modules of a small system.
func modulesTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"modules.dep": "kernel/virtio_pci.ko: kernel/virtio_ring.ko kernel/virtio.ko\nkernel/virtio_ring.ko:\nkernel/virtio.ko: kernel/virtio_ring.ko\n" +
			"kernel/virtio-net.ko.xz: kernel/virtio.ko kernel/virtio_ring.ko\nkernel/crc.ko:\n",
		"modules.alias":   "# comment\nalias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\nalias virtio:d00000001v* virtio_net\nalias fs-my-fs crc\nalias short* crc\n",
		"modules.builtin": "kernel/fs/ext4/ext4.ko\n",
		"modules.softdep": "softdep virtio_net pre: crc post: nothing\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// recorder is an insert that keeps the order.
type recorder struct {
	mu    sync.Mutex
	files []string
	then  func(file string)
}

func (r *recorder) insert(file string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = append(r.files, filepath.Base(file))
	if r.then != nil {
		r.then(file)
	}
	return nil
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestLoader(t *testing.T) {
	dir := modulesTree(t)
	modules, err := ReadModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("what is needed is loaded first, once", func(t *testing.T) {
		r := &recorder{}
		l := NewLoader(modules, r.insert, quiet())
		for _, name := range []string{"virtio-pci", "virtio:d00000001v00001AF4", "virtio_net"} {
			if err := l.Load(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		want := []string{"virtio_ring.ko", "virtio.ko", "virtio_pci.ko", "crc.ko", "virtio-net.ko.xz"}
		slices.Sort(want[:2])
		if got := slices.Clone(r.files); len(got) == 5 {
			slices.Sort(got[:2])
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		} else {
			t.Errorf("loaded %v", got)
		}
	})
	t.Run("names with dashes, and patterns that begin with a wildcard early", func(t *testing.T) {
		for _, name := range []string{"fs-my_fs", "fs_my-fs", "shorter"} {
			if got := modules.Resolve(name); !slices.Equal(got, []string{"crc"}) {
				t.Errorf("Resolve(%q) = %v", name, got)
			}
		}
	})
	t.Run("a module that is built in", func(t *testing.T) {
		if err := NewLoader(modules, (&recorder{}).insert, quiet()).Load("ext4"); err != nil {
			t.Error(err)
		}
	})
	t.Run("an unknown name", func(t *testing.T) {
		if err := NewLoader(modules, (&recorder{}).insert, quiet()).Load("pci:v1"); !errors.Is(err, ErrNoModule) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a failure is that of all who need it", func(t *testing.T) {
		bad := errors.New("no firmware")
		l := NewLoader(modules, func(f string) error {
			if strings.HasSuffix(f, "virtio_ring.ko") {
				return bad
			}
			return nil
		}, quiet())
		for range 2 {
			if err := l.Load("virtio_pci"); !errors.Is(err, bad) {
				t.Errorf("error %v", err)
			}
		}
	})
	t.Run("coldplug goes on while drivers bring up new devices", func(t *testing.T) {
		devices := t.TempDir()
		add := func(path, alias string) {
			dir := filepath.Join(devices, path)
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "modalias"), []byte(alias+"\n"), 0o644)); err != nil {
				t.Error(err)
			}
		}
		add("pci0000:00/0000:00:02.0", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00")
		r := &recorder{then: func(file string) {
			if strings.HasSuffix(file, "virtio_pci.ko") {
				add("pci0000:00/0000:00:02.0/virtio0", "virtio:d00000001v00001AF4")
			}
		}}
		NewLoader(modules, r.insert, quiet()).Coldplug(context.Background(), devices)
		if !slices.Contains(r.files, "virtio-net.ko.xz") {
			t.Errorf("loaded %v", r.files)
		}
	})
}

func TestParseUevent(t *testing.T) {
	u, err := ParseUevent([]byte("add@/devices/pci0/virtio0\x00ACTION=add\x00MODALIAS=virtio:d1v2\x00SUBSYSTEM=virtio\x00"))
	if err != nil || u.Action != "add" || u.Path != "/devices/pci0/virtio0" || u.Env["MODALIAS"] != "virtio:d1v2" {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range []string{"", "libudev\x00\xfe\xed", "add", "@/x", "add@x"} {
		if _, err := ParseUevent([]byte(bad)); !errors.Is(err, ErrUevent) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00ACTION=add\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ParseUevent(b) })
}

// stuck is a console whose peer takes nothing.
type stuck struct{ release chan struct{} }

func (s stuck) Write(b []byte) (int, error) { <-s.release; return len(b), nil }

func TestConsole(t *testing.T) {
	var out bytes.Buffer
	s := stuck{make(chan struct{})}
	c := NewConsole(&out, s)
	p := NewPrinter(c, func() time.Duration { return 1500 * time.Millisecond })
	for i := range 3 * consoleBacklog {
		p.Say("line %d", i)
		if i%64 == 0 {
			c.Flush(time.Millisecond) // lets the good one keep up
		}
	}
	p.Say("two\nlines")
	close(s.release)
	c.Flush(time.Second)
	c.Close(time.Second)
	fmt.Fprint(c, "after the end")
	if got := out.String(); !strings.HasPrefix(got, "[    1.500] bedplate: line 0\n") || !strings.HasSuffix(got, "[    1.500] bedplate: lines\n") {
		t.Errorf("console has %.60q...", got)
	}
}

func TestOpenConsoles(t *testing.T) {
	dir := t.TempDir()
	active := filepath.Join(dir, "active")
	for _, name := range []string{"ttyS0", "tty1", "console"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for content, want := range map[string][]string{"tty0 ttyS0\n": {"tty1", "ttyS0"}, "ttyS7\n": {"console"}, "": {"console"}} {
		if err := os.WriteFile(active, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		outs, err := OpenConsoles(active, dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range outs {
			f := o.(*os.File)
			got = append(got, filepath.Base(f.Name()))
			f.Close()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", content, diff)
		}
	}
}

func TestDiskMounts(t *testing.T) {
	table := filepath.Join(t.TempDir(), "mounts")
	if err := os.WriteFile(table, []byte("rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n/dev/vda1 /mnt/a\\040b ext4 rw 0 0\n/dev/vda2 /mnt/a\\040b/boot vfat rw 0 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := diskMounts(table)
	if diff := cmp.Diff([]string{"/mnt/a b", "/mnt/a b/boot"}, got); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
}
