package ipxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/machine"
)

// rack is a fake index and token maker.
type rack struct {
	machines []machine.Machine
	leases   map[netip.Addr]machine.Name
	tokenErr error
	seen     []string
}

func (r *rack) find(match func(machine.Machine) bool) (machine.Machine, bool) {
	for _, m := range r.machines {
		if match(m) {
			return m, true
		}
	}
	return machine.Machine{}, false
}

func (r *rack) ByMAC(mac machine.MAC) (machine.Machine, bool) {
	return r.find(func(m machine.Machine) bool { _, ok := m.InterfaceByMAC(mac); return ok })
}

func (r *rack) ByUUID(u machine.UUID) (machine.Machine, bool) {
	return r.find(func(m machine.Machine) bool { return m.UUID == u })
}

func (r *rack) BySerial(s string) (machine.Machine, bool) {
	return r.find(func(m machine.Machine) bool { return m.Serial == s })
}

func (r *rack) ByAddress(a netip.Addr) (machine.Machine, bool) {
	return r.find(func(m machine.Machine) bool { return r.leases[a] == m.Name })
}

func (r *rack) BootToken(name machine.Name, mac machine.MAC) (string, error) {
	return fmt.Sprintf("token-of-%s-%s", name, mac), r.tokenErr
}

func (r *rack) Observe(s machine.Sighting) {
	detail, _, _ := strings.Cut(s.Detail, " in 0.")
	r.seen = append(r.seen, fmt.Sprintf("%s %s %s %s: %s", s.Source, s.Machine, s.Address, s.Event, detail))
}

func mac(last byte) machine.MAC { return machine.MAC{0x52, 0x54, 0, 0x77, 0, last} }

var (
	agentAddr = netip.MustParseAddr("10.77.0.11")
	diskAddr  = netip.MustParseAddr("10.77.0.12")
	freeAddr  = netip.MustParseAddr("10.77.0.99")
)

func newRack() *rack {
	return &rack{
		machines: []machine.Machine{
			{Name: "u01", Boot: machine.BootAgent, UUID: "11223344-5566-7788-99aa-bbccddeeff00", Serial: "SN1", Console: "ttyS1,57600", KernelArgs: []string{"intel_iommu=on"}, Interfaces: []machine.Interface{{MAC: mac(1)}, {MAC: mac(0x21)}}},
			{Name: "u02", Boot: machine.BootDisk, Interfaces: []machine.Interface{{MAC: mac(2)}}},
			{Name: "u03", Boot: machine.BootNothing, Interfaces: []machine.Interface{{MAC: mac(3)}}},
			{Name: "u04", Boot: machine.BootAgent, KernelArgs: []string{"x || shell"}, Interfaces: []machine.Interface{{MAC: mac(4)}}},
		},
		leases: map[netip.Addr]machine.Name{agentAddr: "u01", diskAddr: "u02"},
	}
}

// bootDir makes a directory with a small stand-in for every boot file.
func bootDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, row := range Table() {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(row.Sources[0])), []byte("content of "+row.Sources[0]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newServer(t testing.TB, r *rack, change func(*Config)) *Server {
	t.Helper()
	files, err := Load(bootDir(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		BootFiles: files, Machines: r, Tokens: r, Observer: r, CADigest: "sha256:00ff",
		HTTPBase:     func(netip.Addr) string { return "http://10.77.0.1:8080" },
		AgentAddress: func(_, _ netip.Addr) string { return "10.77.0.1:8444" },
		Now:          time.Now, Registerer: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(s *Server, peer netip.Addr, method, target string, header ...string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = netip.AddrPortFrom(peer, 1234).String()
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const agentArgs = "quiet console=tty0 console=ttyS1,57600 intel_iommu=on bedplate.server=10.77.0.1:8444 bedplate.http=http://10.77.0.1:8080 bedplate.token=token-of-u01-"

func TestServer_Script(t *testing.T) {
	discover := func(c *Config) { c.Unknown = func(netip.Addr) UnknownPolicy { return UnknownDiscover } }
	for _, test := range []struct {
		name   string
		query  string
		peer   netip.Addr
		change func(*Config)
		code   int
		want   string // in the script
		never  string
		seen   string
	}{
		{"a machine with work boots the agent with its own token", "mac=52-54-00-77-00-01", agentAddr, nil, 200, agentArgs + "52:54:00:77:00:01 bedplate.ca=sha256:00ff bedplate.mac=52:54:00:77:00:01 &&", "", "http u01 10.77.0.11 script: agent"},
		{"the interface booted over is the one that is on record", "mac=52-54-00-77-00-ee&mac=&mac=52-54-00-77-00-21", agentAddr, nil, 200, "bedplate.mac=52:54:00:77:00:21", "", "http u01 10.77.0.11 script: agent"},
		{"a machine is known by its UUID", "mac=52-54-00-77-00-ee&uuid=11223344-5566-7788-99aa-bbccddeeff00", agentAddr, nil, 200, agentArgs, "", "http u01 10.77.0.11 script: agent"},
		{"a machine is known by its UUID in the other byte order", "uuid=44332211-6655-8877-99aa-bbccddeeff00", agentAddr, nil, 200, agentArgs, "bedplate.mac", "http u01 10.77.0.11 script: agent"},
		{"a machine is known by its serial number", "serial=SN1", agentAddr, nil, 200, agentArgs, "", "http u01 10.77.0.11 script: agent"},
		{"a machine with nothing to do boots its disk", "mac=52-54-00-77-00-02", diskAddr, nil, 200, "sanboot --no-describe --drive 0x80", "kernel", "http u02 10.77.0.12 script: disk"},
		{"a machine that is to boot nothing is told so", "mac=52-54-00-77-00-03", freeAddr, nil, 200, "machine u03 is to boot nothing", "kernel", "http u03 10.77.0.99 script: nothing to boot"},
		{"another machine's address gets no token", "mac=52-54-00-77-00-01", diskAddr, nil, 200, "10.77.0.12 is not an address of machine u01", "token", "http u01 10.77.0.12 script: refused: 10.77.0.12 is not an address of u01"},
		{"an address of nobody's is believed beside a foreign DHCP server", "mac=52-54-00-77-00-01", freeAddr, nil, 200, agentArgs, "", "http u01 10.77.0.99 script: agent"},
		{"an address of nobody's gets no token where every address is ours", "mac=52-54-00-77-00-01", freeAddr, func(c *Config) { c.StrictAddress = func(netip.Addr) bool { return true } }, 200, "is not an address of machine u01", "token", "http u01 10.77.0.99 script: refused: 10.77.0.99 is not an address of u01"},
		{"X-Forwarded-For is not believed", "mac=52-54-00-77-00-01", diskAddr, nil, 200, "is not an address of machine u01", "token", "http u01 10.77.0.12 script: refused: 10.77.0.12 is not an address of u01"},
		{"an unknown machine is ignored", "mac=52-54-00-77-00-ee", freeAddr, nil, 404, "", "kernel", "http  10.77.0.99 script: unknown machine ignored"},
		{"an unknown machine is discovered", "mac=52-54-00-77-00-ee", freeAddr, discover, 200, "bedplate.token=token-of--52:54:00:77:00:ee", "", "http  10.77.0.99 script: discover"},
		{"an unknown machine at a known one's address is not discovered", "mac=52-54-00-77-00-ee", diskAddr, discover, 200, "is an address of another machine", "token", "http  10.77.0.12 script: refused: 10.77.0.12 is an address of u02"},
		{"an unknown machine without MAC address is not discovered", "serial=XYZ", freeAddr, discover, 200, "did not say its MAC address", "token", "http  10.77.0.99 script: refused: no MAC address"},
		{"an unknown machine is refused", "mac=52-54-00-77-00-ee", freeAddr, func(c *Config) { c.Unknown = func(netip.Addr) UnknownPolicy { return UnknownRefuse } }, 200, "52:54:00:77:00:ee) is not known here", "kernel", "http  10.77.0.99 script: refused: unknown machine"},
		{"a kernel argument that would be a command is refused on the console", "mac=52-54-00-77-00-04", freeAddr, nil, 200, "outside double quotes: alter it in the machine's kernelArgs", "\nkernel", `http u04 10.77.0.99 script: kernel argument "x || shell" cannot be written into a boot script: it has a space outside double quotes: alter it in the machine's kernelArgs`},
		{"a request that does not say who asks is refused", "mac=&uuid=&serial=Default+string", freeAddr, discover, 400, "", "kernel", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRack()
			s := newServer(t, r, test.change)
			response := ask(s, test.peer, "GET", scriptPath+"?"+test.query, "X-Forwarded-For", agentAddr.String())
			got := body(t, response)
			if response.StatusCode != test.code {
				t.Fatalf("status %d, want %d: %s", response.StatusCode, test.code, got)
			}
			if test.code == 200 && (!strings.HasPrefix(got, "#!ipxe\n") || response.Header.Get("Cache-Control") != "no-store") {
				t.Errorf("no script, or one to be kept: %v\n%s", response.Header, got)
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("%q is not in\n%s", test.want, got)
			}
			if test.never != "" && strings.Contains(got, test.never) {
				t.Errorf("%q is in\n%s", test.never, got)
			}
			if diff := cmp.Diff(test.seen, strings.Join(r.seen, "\n")); diff != "" {
				t.Error("sightings (-want +got):\n" + diff)
			}
		})
	}
	t.Run("a token that cannot be made is said on the console", func(t *testing.T) {
		r := newRack()
		r.tokenErr = errors.New("no key")
		got := body(t, ask(newServer(t, r, nil), agentAddr, "GET", scriptPath+"?mac=52-54-00-77-00-01"))
		if !strings.Contains(got, "making boot token: no key") || strings.Contains(got, "\nkernel") {
			t.Error(got)
		}
	})
}

func TestServer_First(t *testing.T) {
	s := newServer(t, newRack(), nil)
	got := body(t, ask(s, freeAddr, "GET", "/ipxe/boot.ipxe"))
	if !strings.Contains(got, "chain --replace --timeout 30000 http://10.77.0.1:8080/ipxe/script?mac=${netX/mac:hexhyp}&") {
		t.Error(got)
	}
	t.Run("the URL is of the address that was asked, and not of the Host header", func(t *testing.T) {
		s := newServer(t, newRack(), func(c *Config) { c.HTTPBase = nil })
		server := httptest.NewServer(s.Handler())
		defer server.Close()
		r, err := http.NewRequest("GET", server.URL+"/ipxe/boot.ipxe", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "evil"
		response, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if got := body(t, response); !strings.Contains(got, server.URL+"/ipxe/script?") || strings.Contains(got, "evil") {
			t.Error(got)
		}
	})
}

func TestServer_GRUB(t *testing.T) {
	for _, test := range []struct {
		name string
		peer netip.Addr
		want string
		seen string
	}{
		{"boots the agent of the machine at that address", agentAddr, "linux '/agent/kernel' 'quiet' 'console=tty0' 'console=ttyS1,57600' 'intel_iommu=on' 'bedplate.server=10.77.0.1:8444' 'bedplate.http=http://10.77.0.1:8080' 'bedplate.token=token-of-u01-00:00:00:00:00:00' 'bedplate.ca=sha256:00ff' 'bedplate.mac='$net_default_mac;", "u01 10.77.0.11 grub.cfg: agent"},
		{"gives a machine with nothing to do back to its firmware", diskAddr, "exit 1", "u02 10.77.0.12 grub.cfg: disk"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRack()
			s := newServer(t, r, nil)
			overHTTP := body(t, ask(s, test.peer, "GET", "/grub//grub.cfg"))
			f, err := s.Open("grub/grub.cfg", test.peer)
			if err != nil {
				t.Fatal(err)
			}
			overTFTP, err := io.ReadAll(f)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(overHTTP, string(overTFTP)); diff != "" {
				t.Error("HTTP and TFTP differ:\n" + diff)
			}
			if !strings.Contains(overHTTP, test.want) {
				t.Errorf("%q is not in\n%s", test.want, overHTTP)
			}
			if diff := cmp.Diff([]string{"http " + test.seen, "tftp " + test.seen}, r.seen); diff != "" {
				t.Error("sightings (-want +got):\n" + diff)
			}
		})
	}
	t.Run("an unknown machine is ignored", func(t *testing.T) {
		s := newServer(t, newRack(), nil)
		if _, err := s.Open("grub/grub.cfg", freeAddr); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("TFTP: %v", err)
		}
		if got := ask(s, freeAddr, "GET", grubPath).StatusCode; got != 404 {
			t.Errorf("HTTP: %d", got)
		}
	})
}

func TestServer_AgentFiles(t *testing.T) {
	r := newRack()
	path := filepath.Join(t.TempDir(), "kernel")
	content := bytes.Repeat([]byte("kernel"), 10000)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, r, func(c *Config) { c.KernelPath = path; c.InitramfsPath = path + "-not-there" })
	t.Run("a whole kernel is reported at its start and its end", func(t *testing.T) {
		if got := body(t, ask(s, agentAddr, "GET", kernelPath)); got != string(content) {
			t.Errorf("%d bytes", len(got))
		}
		if diff := cmp.Diff([]string{"http  10.77.0.11 kernel: kernel", "http  10.77.0.11 kernel-complete: kernel, 60000 bytes"}, r.seen); diff != "" {
			t.Error("sightings (-want +got):\n" + diff)
		}
	})
	t.Run("HEAD and ranges", func(t *testing.T) {
		head := ask(s, agentAddr, "HEAD", kernelPath)
		if head.ContentLength != int64(len(content)) {
			t.Errorf("Content-Length %d", head.ContentLength)
		}
		part := ask(s, agentAddr, "GET", kernelPath, "Range", "bytes=59998-")
		if got := body(t, part); part.StatusCode != 206 || got != "el" {
			t.Errorf("%d %q", part.StatusCode, got)
		}
	})
	t.Run("a system that is not built is an error that says how to build it", func(t *testing.T) {
		r.seen = nil
		if got := ask(s, agentAddr, "GET", initramfsPath).StatusCode; got != 503 {
			t.Errorf("status %d", got)
		}
		if _, err := s.Open("agent/initramfs", agentAddr); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("TFTP: %v", err)
		}
		if got := strings.Join(r.seen, ""); !strings.Contains(got, "bedplate agentos build") {
			t.Error(got)
		}
	})
	t.Run("over TFTP", func(t *testing.T) {
		f, err := s.Open("agent/kernel", agentAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("a client that leaves is reported", func(t *testing.T) {
		r := newRack()
		s := newServer(t, r, func(c *Config) { c.KernelPath = path })
		w := &cutWriter{ResponseRecorder: httptest.NewRecorder(), left: 1000}
		request := httptest.NewRequest("GET", kernelPath, nil)
		request.RemoteAddr = agentAddr.String() + ":1"
		s.Handler().ServeHTTP(w, request)
		if diff := cmp.Diff([]string{"http  10.77.0.11 kernel: kernel", "http  10.77.0.11 kernel-cut: kernel after 1000 of 60000 bytes"}, r.seen); diff != "" {
			t.Error("sightings (-want +got):\n" + diff)
		}
	})
}

// cutWriter is a connection that breaks.
type cutWriter struct {
	*httptest.ResponseRecorder
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if n < len(p) {
		return n, net.ErrClosed
	}
	return n, nil
}

func TestServer_Methods(t *testing.T) {
	s := newServer(t, newRack(), nil)
	for _, path := range []string{scriptPath, "/boot/undionly.kpxe", kernelPath} {
		if got := ask(s, freeAddr, "POST", path).StatusCode; got != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, got)
		}
	}
	for _, path := range []string{"/", "/boot/", "/boot/nothing", "/boot/../agent/secret", "/ipxe/", "/boot/revocations_sku.efi"} {
		if got := ask(s, freeAddr, "GET", path).StatusCode; got != http.StatusNotFound {
			t.Errorf("GET %s: %d", path, got)
		}
	}
}

func FuzzParseQuery(f *testing.F) {
	for _, seed := range []string{
		"mac=52-54-00-77-00-01&uuid=11223344-5566-7788-99aa-bbccddeeff00&serial=SN1", // what iPXE sends
		"mac=&mac=&uuid=&serial=", // interfaces that are not there
		"mac=525400770001&serial=%00%0a${net0/mac}%20||%20shell", "uuid=----", "mac=" + strings.Repeat("a&mac=", 100),
	} {
		f.Add(seed)
	}
	s := newServer(f, newRack(), func(c *Config) { c.Unknown = func(netip.Addr) UnknownPolicy { return UnknownRefuse } })
	f.Fuzz(func(t *testing.T, raw string) {
		r := httptest.NewRequest("GET", scriptPath, nil)
		r.URL.RawQuery = raw
		r.RemoteAddr = "10.77.0.99:1"
		q := parseQuery(r.URL.Query())
		if len(q.macs) > maxMACs || len(q.serial) > maxSerial {
			t.Errorf("%d addresses, %d characters", len(q.macs), len(q.serial))
		}
		if q.uuid != "" && swapUUID(swapUUID(q.uuid)) != q.uuid {
			t.Errorf("%s turned twice is %s", q.uuid, swapUUID(swapUUID(q.uuid)))
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 400 {
			t.Errorf("status %d", w.Code)
		}
		if script := w.Body.String(); w.Code == 200 && strings.Contains(script, "shell") {
			t.Error(script)
		}
	})
}
