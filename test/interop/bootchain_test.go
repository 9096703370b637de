package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"

	"github.com/bedplate/bedplate/ipxe"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/index"
	"github.com/bedplate/bedplate/tftp"
)

type tokens struct{}

func (tokens) BootToken(name machine.Name, mac machine.MAC) (string, error) {
	return fmt.Sprintf("token-%s-%s", name, mac), nil
}

// chain is the boot services over real sockets on loopback.
type chain struct {
	files *ipxe.BootFiles
	http  string
	tftp  netip.AddrPort
}

func startChain(t *testing.T) chain {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, row := range ipxe.Table() {
		write(row.Sources[0], bytes.Repeat([]byte(row.Sources[0]+"\n"), 1000))
	}
	files, err := ipxe.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	machines := index.New()
	machines.Set(machine.Machine{Name: "u01", Boot: machine.BootAgent, Interfaces: []machine.Interface{{MAC: machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}}}})
	machines.SetLease(netip.MustParseAddr("127.0.0.1"), machine.MAC{0x52, 0x54, 0, 0x77, 0, 1})
	var base string
	boot, err := ipxe.New(ipxe.Config{
		BootFiles: files, Machines: machines, Tokens: tokens{}, CADigest: "sha256:00", Now: time.Now,
		AgentAddress: func(_, _ netip.Addr) string { return "127.0.0.1:8444" },
		HTTPBase:     func(netip.Addr) string { return base },
		KernelPath:   write("vmlinuz", []byte("kernel")), InitramfsPath: write("initramfs.zst", []byte("initramfs")),
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(boot.Handler())
	t.Cleanup(web.Close)
	base = web.URL
	server, err := tftp.New(tftp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Files: boot, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return chain{files: files, http: base, tftp: server.Addr()}
}

func (c chain) overTFTP(t *testing.T, name string) string {
	t.Helper()
	client, err := pin.NewClient(c.tftp.String())
	if err != nil {
		t.Fatal(err)
	}
	client.SetBlockSize(1468)
	transfer, err := client.Receive(name, "octet")
	if err != nil {
		t.Fatalf("TFTP %s: %v", name, err)
	}
	var content bytes.Buffer
	if _, err := transfer.WriteTo(&content); err != nil {
		t.Fatalf("TFTP %s: %v", name, err)
	}
	return content.String()
}

func (c chain) overHTTP(t *testing.T, url string) string {
	t.Helper()
	if strings.HasPrefix(url, "/") {
		url = c.http + url
	}
	client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // as firmware, which follows none
	}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("HTTP %s: %s, %v", url, response.Status, err)
	}
	return string(content)
}

// TestBootChain follows every name and URL that a machine is given to the bytes
// that are served for it.
func TestBootChain(t *testing.T) {
	c := startChain(t)
	t.Run("each boot file that DHCP names", func(t *testing.T) {
		for _, arch := range []ipxe.Arch{0, 7, 9, 11, 16, 17, 19, 20} {
			for _, secureBoot := range []bool{false, true} {
				name, ok := c.files.NameFor(arch, secureBoot)
				if !ok {
					continue
				}
				f, _ := c.files.File(name)
				if got := c.overTFTP(t, name); got != string(f.Content) {
					t.Errorf("TFTP %s: %d bytes, want %d", name, len(got), len(f.Content))
				}
				if got := c.overHTTP(t, "/boot/"+name); got != string(f.Content) {
					t.Errorf("HTTP %s: %d bytes, want %d", name, len(got), len(f.Content))
				}
			}
		}
	})
	t.Run("what shim and GRUB ask for", func(t *testing.T) {
		grub, _ := c.files.File("grubx64.efi")
		if c.overTFTP(t, "/grubx64.efi") != string(grub.Content) || c.overHTTP(t, "/boot//grubx64.efi") != string(grub.Content) {
			t.Error("GRUB differs")
		}
		config := c.overTFTP(t, "/grub/grub.cfg")
		for _, path := range regexp.MustCompile(`(?:linux|initrd) '([^']+)'`).FindAllStringSubmatch(config, -1) {
			if tftp, http := c.overTFTP(t, path[1]), c.overHTTP(t, path[1]); tftp != http || tftp == "" {
				t.Errorf("%s: %q by TFTP, %q by HTTP", path[1], tftp, http)
			}
		}
	})
	t.Run("iPXE, from its first script to kernel and initramfs", func(t *testing.T) {
		first := c.overHTTP(t, "/ipxe/boot.ipxe")
		match := regexp.MustCompile(`(?m)^chain .* (http://\S+)\?`).FindStringSubmatch(first)
		if match == nil {
			t.Fatalf("no chain in\n%s", first)
		}
		script := c.overHTTP(t, match[1]+"?mac=52-54-00-77-00-01&mac=&uuid=&serial=&arch=x86_64&platform=efi")
		for command, want := range map[string]string{"kernel": "kernel", "initrd": "initramfs"} {
			match := regexp.MustCompile(`(?m)^` + command + ` .*?(http://\S+)`).FindStringSubmatch(script)
			if match == nil {
				t.Fatalf("no %s in\n%s", command, script)
			}
			if got := c.overHTTP(t, match[1]); got != want {
				t.Errorf("%s: %q", match[1], got)
			}
		}
	})
}
