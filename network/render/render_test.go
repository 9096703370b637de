package render

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ignition "github.com/coreos/ignition/v2/config/v3_3"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
	"github.com/vincent-petithory/dataurl"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/network"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

var update = flag.Bool("update", false, "write testdata as it is now")

// TestForms writes each declaration in every form; the gaps come after.
func TestForms(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 3 {
		t.Fatalf("%v: %v", paths, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c := read(t, a.Files[0].Data)
			got := &txtar.Archive{Comment: a.Comment, Files: a.Files[:1:1]}
			for _, f := range Forms {
				if f.Name == "flatcar" || f.Name == "fedora-coreos" {
					continue // the same files, encoded: TestIgnition
				}
				files, gaps := f.Files(c)
				got.Files = append(got.Files, txtar.File{Name: f.Name, Data: []byte(Text(files) + gapText(gaps))})
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(a)), string(txtar.Format(got))); diff != "" {
				t.Errorf("run with -update and read the difference (-want +got):\n%s", diff)
			}
		})
	}
}

func gapText(gaps network.Gaps) string {
	var b strings.Builder
	for _, g := range gaps {
		word := "warning"
		if g.Broken {
			word = "error"
		}
		fmt.Fprintf(&b, "# %s: %s: %s\n", word, g.Path, g.Message)
	}
	return b.String()
}

func read(t *testing.T, text []byte) *network.Config {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
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
	for _, p := range problems {
		t.Fatalf("%s: %s", p.Path, p.Message)
	}
	c.Hostname = "web-1"
	return c
}

// TestForms_Whole holds every form to say each field or list it as a gap: a
// field is changed, and then either the output or the gaps have to differ.
func TestForms_Whole(t *testing.T) {
	base := &pb.MachineNetwork{
		Links: []*pb.NetworkLink{
			{Name: "p0", Mac: "52:54:00:77:00:01"},
			{Name: "p1", Mac: "52:54:00:77:01:01"},
			{Name: "p2", Mac: "52:54:00:77:02:01", Addresses: []string{"10.2.0.1/24", "2001:db8::1/64"}},
			{Name: "p3", Mac: "52:54:00:77:03:01"},
			{Name: "b0", Bond: &pb.NetworkBond{Ports: []string{"p0", "p1"}, Mode: "802.3ad"}, Addresses: []string{"10.1.0.1/24"}},
			{Name: "b0.7", Vlan: &pb.NetworkVLAN{Link: "b0", Id: 7}, Addresses: []string{"10.7.0.1/24"}},
			{Name: "br0", Bridge: &pb.NetworkBridge{Ports: []string{"p3"}}},
		},
	}
	yes := true
	for _, c := range []struct {
		field  string
		change func(*pb.MachineNetwork)
		// not are forms in which it means nothing, with the reason beside them.
		not []string
	}{
		{"nameservers", func(n *pb.MachineNetwork) { n.Nameservers = []string{"10.2.0.2"} }, nil},
		{"search_domains", func(n *pb.MachineNetwork) { n.SearchDomains = []string{"example"} }, nil},
		{"mac of a port", func(n *pb.MachineNetwork) { n.Links[2].Mac = "52:54:00:77:02:09" }, nil},
		{"mac of a bond", func(n *pb.MachineNetwork) { n.Links[4].Mac = "52:54:00:77:02:09" }, nil},
		{"mtu of a port", func(n *pb.MachineNetwork) { n.Links[2].Mtu = 9000 }, nil},
		{"mtu of a bond", func(n *pb.MachineNetwork) { n.Links[4].Mtu = 9000 }, nil},
		{"mtu of a VLAN", func(n *pb.MachineNetwork) { n.Links[5].Mtu = 1400 }, nil},
		{"mtu of a bridge", func(n *pb.MachineNetwork) { n.Links[6].Mtu = 1400 }, []string{"talos-kernel-arguments"}},
		{"addresses", func(n *pb.MachineNetwork) { n.Links[2].Addresses[0] = "10.2.0.9/24" }, nil},
		{"addresses of a bridge", func(n *pb.MachineNetwork) { n.Links[6].Addresses = []string{"10.9.0.1/24"} }, []string{"talos-kernel-arguments"}}, // has no bridges: one gap says so
		{"dhcp4", func(n *pb.MachineNetwork) { n.Links[4].Dhcp4 = true }, nil},
		{"dhcp6", func(n *pb.MachineNetwork) { n.Links[4].Dhcp6 = true }, nil},
		{"accept_ra", func(n *pb.MachineNetwork) { n.Links[4].AcceptRa = &yes }, []string{"networkmanager", "fedora-coreos", "talos-kernel-arguments"}}, // what they do anyhow
		{"no accept_ra", func(n *pb.MachineNetwork) { n.Links[4].AcceptRa = new(bool) }, nil},
		{"gateway4", func(n *pb.MachineNetwork) { n.Links[2].Gateway4 = "10.2.0.254" }, nil},
		{"gateway6", func(n *pb.MachineNetwork) { n.Links[2].Gateway6 = "fe80::1" }, nil},
		{"gateway4 and its metric", func(n *pb.MachineNetwork) { n.Links[2].Gateway4, n.Links[2].Metric = "10.2.0.254", 9 }, nil},
		{"routes", func(n *pb.MachineNetwork) {
			n.Links[2].Routes = []*pb.NetworkRoute{{To: "10.0.0.0/8", Via: "10.2.0.254"}}
		}, nil},
		{"route's table", func(n *pb.MachineNetwork) {
			n.Links[2].Routes = []*pb.NetworkRoute{{To: "10.0.0.0/8", Via: "10.2.0.254", Table: 7}}
		}, nil},
		{"link's nameservers", func(n *pb.MachineNetwork) { n.Links[2].Nameservers = []string{"10.2.0.2"} }, nil},
		{"link's search_domains", func(n *pb.MachineNetwork) { n.Links[2].SearchDomains = []string{"example"} }, nil},
		{"optional", func(n *pb.MachineNetwork) { n.Links[2].Optional = true }, []string{"systemd-kernel-arguments", "networkmanager", "fedora-coreos", "talos", "kernel-arguments", "talos-kernel-arguments"}}, // they don't wait for one without a carrier
		{"bond.mode", func(n *pb.MachineNetwork) { n.Links[4].Bond.Mode = "balance-xor" }, nil},
		{"bond.miimon", func(n *pb.MachineNetwork) { n.Links[4].Bond.Miimon = "50ms" }, nil},
		{"bond.up_delay", func(n *pb.MachineNetwork) { n.Links[4].Bond.UpDelay = "200ms" }, nil},
		{"bond.down_delay", func(n *pb.MachineNetwork) { n.Links[4].Bond.DownDelay = "200ms" }, nil},
		{"bond.lacp_rate", func(n *pb.MachineNetwork) { n.Links[4].Bond.LacpRate = "fast" }, nil},
		{"bond.transmit_hash_policy", func(n *pb.MachineNetwork) { n.Links[4].Bond.TransmitHashPolicy = "layer3+4" }, nil},
		{"bond.ad_select", func(n *pb.MachineNetwork) { n.Links[4].Bond.AdSelect = "count" }, nil},
		{"bond.min_links", func(n *pb.MachineNetwork) { n.Links[4].Bond.MinLinks = 2 }, nil},
		{"bond.primary", func(n *pb.MachineNetwork) { n.Links[4].Bond.Mode, n.Links[4].Bond.Primary = "active-backup", "p1" }, nil},
		{"bond.primary_reselect", func(n *pb.MachineNetwork) {
			n.Links[4].Bond.Mode, n.Links[4].Bond.PrimaryReselect = "active-backup", "failure"
		}, nil},
		{"bond.fail_over_mac", func(n *pb.MachineNetwork) {
			n.Links[4].Bond.Mode, n.Links[4].Bond.FailOverMac = "active-backup", "active"
		}, nil},
		{"bond.arp_interval", func(n *pb.MachineNetwork) {
			n.Links[4].Bond.Mode, n.Links[4].Bond.ArpInterval, n.Links[4].Bond.ArpTargets = "balance-xor", "250ms", []string{"10.1.0.2", "10.1.0.3"}
		}, nil},
		{"vlan.id", func(n *pb.MachineNetwork) { n.Links[5].Vlan.Id = 8 }, nil},
		{"bridge.stp", func(n *pb.MachineNetwork) { n.Links[6].Bridge.Stp = true }, []string{"talos-kernel-arguments"}},
		{"bridge.priority", func(n *pb.MachineNetwork) { n.Links[6].Bridge.Priority = 4096 }, []string{"talos-kernel-arguments"}},
		{"bridge.forward_delay", func(n *pb.MachineNetwork) { n.Links[6].Bridge.Stp, n.Links[6].Bridge.ForwardDelay = true, "5s" }, []string{"talos-kernel-arguments"}},
		{"bridge.ports", func(n *pb.MachineNetwork) { n.Links[6].Bridge.Ports = nil }, []string{"talos-kernel-arguments"}},
		{"bgp", func(n *pb.MachineNetwork) {
			n.Bgp = &pb.NetworkBGP{Asn: 65000, Peers: []*pb.NetworkBGPPeer{{Link: "p2"}}}
		}, nil},
	} {
		changed := proto.CloneOf(base)
		c.change(changed)
		for _, f := range Forms {
			if (f.Name == "frr" || f.Name == "bird") && c.field != "bgp" || slices.Contains(c.not, f.Name) {
				continue
			}
			if bytes.Equal(output(t, f, base), output(t, f, changed)) {
				t.Errorf("%s drops %s in silence", f.Name, c.field)
			}
		}
	}
}

func output(t *testing.T, f Form, spec *pb.MachineNetwork) []byte {
	t.Helper()
	c, problems := network.Read(spec)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	files, gaps := f.Files(c)
	return []byte(Text(files) + gapText(gaps))
}

func TestNamed(t *testing.T) {
	if _, err := Named("ifupdown"); err == nil || !strings.Contains(err.Error(), "networkd") {
		t.Errorf("%v doesn't say what there is", err)
	}
	if f, err := Named("talos"); err != nil || f.Name != "talos" {
		t.Errorf("%v, %v", f, err)
	}
}

// TestIgnition reads what Flatcar and Fedora CoreOS are given with Ignition's
// own parser: it has the same files as the forms that they are made of.
func TestIgnition(t *testing.T) {
	for _, c := range []struct{ form, of string }{{"flatcar", "networkd"}, {"fedora-coreos", "networkmanager"}} {
		for _, name := range []string{"bond", "backup", "bgp"} {
			t.Run(c.form+" "+name, func(t *testing.T) {
				a, err := txtar.ParseFile("testdata/" + name + ".txtar")
				if err != nil {
					t.Fatal(err)
				}
				spec := read(t, a.Files[0].Data)
				form, of := must(t, c.form), must(t, c.of)
				out, _ := form.Files(spec)
				parsed, report, err := ignition.Parse(out[0].Data)
				if err != nil || len(report.Entries) > 0 {
					t.Fatalf("%v\n%s", err, report.String())
				}
				want, _ := of.Files(spec)
				frr, _ := must(t, "frr").Files(spec)
				want = append(append(want, network.File{Path: "/etc/hostname", Mode: 0o644, Data: []byte("web-1\n")}), frr...)
				var got []network.File
				for _, f := range parsed.Storage.Files {
					u, err := dataurl.DecodeString(*f.Contents.Source)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, network.File{Path: f.Path, Mode: uint32(*f.Mode), Data: u.Data})
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

func must(t *testing.T, name string) Form {
	t.Helper()
	f, err := Named(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestTalos holds the patch against Talos's own loader and validation.
func TestTalos(t *testing.T) {
	for _, name := range []string{"bond", "backup", "bgp"} {
		t.Run(name, func(t *testing.T) {
			a, err := txtar.ParseFile("testdata/" + name + ".txtar")
			if err != nil {
				t.Fatal(err)
			}
			out, _ := must(t, "talos").Files(read(t, a.Files[0].Data))
			p, err := configloader.NewFromBytes(append([]byte("version: v1alpha1\n"), out[0].Data...))
			if err != nil {
				t.Fatalf("%v\n%s", err, out[0].Data)
			}
			//lint:ignore SA1019 it is the form that is rendered
			for _, device := range p.RawV1Alpha1().MachineConfig.MachineNetwork.NetworkInterfaces {
				warnings, err := v1alpha1.ValidateNetworkDevices(device, map[string]string{}, v1alpha1.CheckDeviceInterface, v1alpha1.CheckDeviceAddressing, v1alpha1.CheckDeviceRoutes)
				if err != nil || len(warnings) > 0 {
					t.Errorf("%v %v\n%s", err, warnings, out[0].Data)
				}
			}
		})
	}
}
