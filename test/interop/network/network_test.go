package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/bedplate/bedplate/network"
	"github.com/bedplate/bedplate/network/render"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// declarations are those whose forms are golden files.
const declarations = "../../../network/render/testdata"

// limit bounds every foreign program.
const limit = 30 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv("BEDPLATE_E2E") == "" {
		fmt.Println("SKIP: this needs netplan, NetworkManager, systemd, FRR and BIRD: run `make e2e`")
		return
	}
	os.Exit(m.Run())
}

// each runs f for every declaration.
func each(t *testing.T, f func(t *testing.T, c *network.Config)) {
	t.Helper()
	for _, name := range []string{"bond", "backup", "bgp"} {
		t.Run(name, func(t *testing.T) {
			a, err := txtar.ParseFile(filepath.Join(declarations, name+".txtar"))
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := yaml.Unmarshal(a.Files[0].Data, &v); err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			spec := &pb.MachineNetwork{}
			if err := protojson.Unmarshal(data, spec); err != nil {
				t.Fatal(err)
			}
			c, problems := network.Read(spec)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			c.Hostname = "web-1"
			f(t, c)
		})
	}
}

// files writes a form's files below a folder of their own.
func files(t *testing.T, c *network.Config, form string) (dir string, all []network.File) {
	t.Helper()
	f, err := render.Named(form)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	all, _ = f.Files(c)
	for _, f := range all {
		path := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if f.Path == "" {
			continue
		}
		if err := os.WriteFile(path, f.Data, os.FileMode(f.Mode)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, all
}

// run runs a foreign program and returns what it printed.
func run(t *testing.T, cmd func(ctx context.Context) *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := cmd(ctx)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(c.Args, " "), err, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func command(name string, args ...string) func(context.Context) *exec.Cmd {
	return func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, name, args...) }
}

// says checks that a text has all of some lines.
func says(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(text, l) {
			t.Errorf("%q is missing in\n%s", l, text)
		}
	}
}

func TestNetplan(t *testing.T) {
	each(t, func(t *testing.T, c *network.Config) {
		dir, _ := files(t, c, "netplan")
		if _, warnings := run(t, command("netplan", "generate", "--root-dir", dir)); warnings != "" {
			t.Errorf("netplan says: %s", warnings)
		}
		made, err := filepath.Glob(filepath.Join(dir, "run/systemd/network/*"))
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, path := range made {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(data)
		}
		for _, l := range c.Links {
			for _, a := range l.Addresses {
				says(t, all.String(), "Address="+a.String()+"\n")
			}
			switch {
			case l.Bond != nil:
				says(t, all.String(), "Mode="+l.Bond.Mode+"\n")
			case l.VLAN != nil:
				says(t, all.String(), fmt.Sprintf("Id=%d\n", l.VLAN.ID))
			}
		}
	})
}

// defaults are what NetworkManager doesn't write again, and where a gateway goes.
var defaults = regexp.MustCompile(`^(stp=true|gateway=.*)$`)

func TestNetworkManager(t *testing.T) {
	each(t, func(t *testing.T, c *network.Config) {
		_, all := files(t, c, "networkmanager")
		for _, f := range all {
			if !strings.HasSuffix(f.Path, ".nmconnection") {
				continue
			}
			out, warnings := run(t, func(ctx context.Context) *exec.Cmd {
				cmd := exec.CommandContext(ctx, "nmcli", "--offline", "connection", "modify", "connection.autoconnect", "yes")
				cmd.Stdin = bytes.NewReader(f.Data)
				return cmd
			})
			if warnings != "" {
				t.Errorf("nmcli says of %s: %s", f.Path, warnings)
			}
			for line := range strings.Lines(string(f.Data)) {
				line = strings.TrimSpace(line)
				if key, _, ok := strings.Cut(line, "="); ok && !defaults.MatchString(line) {
					says(t, out, key+"=")
				}
				if gw, ok := strings.CutPrefix(line, "gateway="); ok {
					says(t, out, ","+gw+"\n")
				}
			}
		}
	})
}

// arguments returns a form's kernel arguments.
func arguments(t *testing.T, c *network.Config, form string) []string {
	t.Helper()
	_, all := files(t, c, form)
	return strings.Fields(string(all[0].Data))
}

func TestInitrdGenerator(t *testing.T) {
	const program = "/usr/lib/NetworkManager/nm-initrd-generator"
	each(t, func(t *testing.T, c *network.Config) {
		out, warnings := run(t, command(program, append([]string{"--stdout", "--"}, arguments(t, c, "kernel-arguments")...)...))
		if warnings != "" {
			t.Errorf("nm-initrd-generator says: %s", warnings)
		}
		for _, l := range c.Links {
			if l.Kind == network.Lo {
				continue // listed as a gap
			}
			for _, a := range l.Addresses {
				says(t, out, a.String())
			}
			switch {
			case l.Bond != nil:
				says(t, out, "mode="+l.Bond.Mode+"\n", "interface-name="+l.Name+"\n")
			case l.VLAN != nil:
				says(t, out, fmt.Sprintf("id=%d\n", l.VLAN.ID))
			}
			for _, r := range l.Routes {
				if r.Via.IsValid() && r.Metric == 0 && r.Table == 0 && !r.OnLink {
					says(t, out, "="+r.To.String()+","+r.Via.String()+"\n")
				}
			}
		}
		servers, _ := c.AllDNS()
		for _, s := range servers {
			says(t, out, s.String()+";")
		}
	})
}

// inNamespaces runs a script with mounts and interfaces of its own.
func inNamespaces(t *testing.T, script string, args ...string) string {
	t.Helper()
	flags := []string{"--mount", "--net"}
	if os.Getuid() != 0 {
		flags = append(flags, "--map-root-user")
	}
	words := append(append(flags, "bash", "-euc", script, "script"), args...)
	out, _ := run(t, command("unshare", words...))
	return out
}

func TestSystemdNetworkGenerator(t *testing.T) {
	const script = `
mount -t tmpfs tmpfs /run
SYSTEMD_IN_INITRD=1 SYSTEMD_PROC_CMDLINE="$1" /lib/systemd/systemd-network-generator 2>&1
cat /run/systemd/network/*`
	each(t, func(t *testing.T, c *network.Config) {
		out := inNamespaces(t, script, strings.Join(arguments(t, c, "systemd-kernel-arguments"), " "))
		for _, l := range c.Links {
			if l.Kind == network.Lo {
				continue
			}
			for _, a := range l.Addresses {
				says(t, out, "Address="+a.String()+"\n")
			}
			for _, r := range l.Routes {
				if r.Via.IsValid() && r.Metric == 0 && r.Table == 0 && !r.OnLink {
					says(t, out, "Destination="+r.To.String()+"\n")
				}
			}
			says(t, out, "Name="+l.Name+"\n")
		}
		servers, _ := c.AllDNS()
		for _, s := range servers {
			says(t, out, "DNS="+s.String()+"\n")
		}
	})
}

// networkd runs systemd-networkd for the units in $1 on ports that are veths. Those
// have no permanent address, so units that want one are given the name instead,
// which is what the .link file would have made of it.
const networkd = `
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /etc/systemd/network
chown -R systemd-network:systemd-network /run/systemd/netif 2>/dev/null || true
mount -t tmpfs tmpfs /etc/systemd/network
cp "$1"/etc/systemd/network/* /etc/systemd/network/
mount -t sysfs -o ro sysfs /sys # networkd doesn't wait for udev then
for f in /etc/systemd/network/10-*.link; do
  n=$(basename "$f" .link); n=${n#10-bedplate-}
  mac=$(sed -n 's/^PermanentMACAddress=//p' "$f")
  sed -i "s/^PermanentMACAddress=.*/Name=$n/" "/etc/systemd/network/20-bedplate-$n.network"
  ip link add "$n" address "$mac" type veth peer name "x-$n"
  ip link set "x-$n" up
done
rm /etc/systemd/network/10-*.link
ip link set lo up
SYSTEMD_LOG_LEVEL=debug timeout 20 /lib/systemd/systemd-networkd >/run/log 2>&1 &
pid=$!
for i in $(seq 60); do
  sleep 0.2
  if eval "$2"; then break; fi
done
ip -br addr; ip route show table all; ip -6 route show
kill $pid; wait || true
echo; echo LOG; grep -E "/etc/systemd/network/[^ ]+:[0-9]+: " /run/log || true`

func TestNetworkd(t *testing.T) {
	each(t, func(t *testing.T, c *network.Config) {
		dir, _ := files(t, c, "networkd")
		// Bonds and VLANs need the kernel's modules: test/e2e has those.
		want := map[string][]string{
			"backup": {"10.255.0.31/32", "2001:db8:ffff::31/128", "10.9.0.31/32", "192.0.2.9/24", "10.9.0.0/16 dev storage", "default via 10.9.255.1 dev storage", "metric 500 onlink"},
			"bgp":    {"10.255.0.31/32", "2001:db8:ffff::31/128", "10.0.1.1/31"},
		}[filepath.Base(t.Name())]
		ready := "true"
		for _, w := range want {
			ready += fmt.Sprintf(" && { ip -br addr; ip route show table all; } | grep -q %q", w)
		}
		out, log, _ := strings.Cut(inNamespaces(t, networkd, dir, ready), "\nLOG\n")
		says(t, out, want...)
		if log != "" {
			t.Errorf("networkd says: %s", log)
		}
	})
}

func TestRoutingDaemons(t *testing.T) {
	each(t, func(t *testing.T, c *network.Config) {
		if c.BGP == nil {
			return
		}
		bird, _ := files(t, c, "bird")
		if out, errs := run(t, command("bird", "-p", "-c", filepath.Join(bird, "etc/bird/bird.conf"))); out+errs != "" {
			t.Errorf("bird says: %s%s", out, errs)
		}
		frr, _ := files(t, c, "frr")
		if out, errs := run(t, command("vtysh", "-C", "-f", filepath.Join(frr, "etc/frr/frr.conf"))); out+errs != "" {
			t.Errorf("vtysh says: %s%s", out, errs)
		}
	})
}

// TestCloudInit has cloud-init turn its configuration into that of the systems
// whose network it writes itself.
func TestCloudInit(t *testing.T) {
	if _, err := exec.LookPath("cloud-init"); err != nil {
		// It isn't installed by `make e2e`: it would configure the machine that it is on.
		t.Skip("SKIPPED: cloud-init is not installed: apt-get install cloud-init")
	}
	each(t, func(t *testing.T, c *network.Config) {
		_, all := files(t, c, "cloud-init")
		config := filepath.Join(t.TempDir(), "network-config")
		if err := os.WriteFile(config, all[0].Data, 0o600); err != nil {
			t.Fatal(err)
		}
		arp := false
		for _, l := range c.Links {
			arp = arp || l.Bond != nil && l.Bond.ARPInterval != 0
		}
		for _, to := range []struct{ distribution, renderer string }{{"debian", "netplan"}, {"fedora", "network-manager"}, {"rhel", "sysconfig"}, {"debian", "eni"}} {
			if arp && to.renderer != "netplan" {
				continue // listed as a gap
			}
			t.Run(to.renderer, func(t *testing.T) {
				dir := t.TempDir()
				run(t, command("cloud-init", "devel", "net-convert", "--network-data", config, "--kind", "yaml", "--directory", dir, "--distro", to.distribution, "--output-kind", to.renderer))
				made := tree(t, dir)
				for _, l := range c.Links {
					if l.Kind == network.Lo && to.renderer == "sysconfig" {
						continue // it leaves lo as it is
					}
					for _, a := range l.Addresses {
						says(t, made, a.Addr().String())
					}
					if l.Bond != nil {
						says(t, made, l.Bond.Mode)
					}
				}
			})
		}
	})
}

// tree returns the text of every file below a folder.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
