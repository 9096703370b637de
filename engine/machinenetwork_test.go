package engine

import (
	"strings"
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// declared is a machine with a bond and a VLAN on it.
func declared() *pb.Machine {
	return &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1"},
		Spec: &pb.MachineSpec{
			Hostname:   "host-1",
			Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:01", Address: "10.9.0.31/24"}},
			Network: &pb.MachineNetwork{Links: []*pb.NetworkLink{
				{Name: "p0", Mac: "52:54:00:77:00:01"},
				{Name: "p1", Nic: "eno2"},
				{Name: "b", Bond: &pb.NetworkBond{Ports: []string{"p0", "p1"}, Mode: "active-backup"}},
				{Name: "v", Vlan: &pb.NetworkVLAN{Link: "b", Id: 7}, Addresses: []string{"10.9.0.32/24"}},
			}},
		},
		Status: &pb.MachineStatus{Inventory: &pb.Inventory{Nics: []*pb.NIC{{Name: "eno2", Mac: "52:54:00:77:00:02"}}}},
	}
}

func TestMachineNetwork(t *testing.T) {
	site := []*pb.Network{{Metadata: &pb.Metadata{Name: "rack"}, Spec: &pb.NetworkSpec{
		Cidr: "10.9.0.0/24", DhcpMode: pb.DHCPMode_OFF, Gateway: "10.9.0.254", Nameservers: []string{"10.9.0.2"}, Domain: "rack.example", Mtu: 1400,
		StaticRoutes: []*pb.StaticRoute{{Destination: "10.0.0.0/8", Gateway: "10.9.0.3"}},
	}}}
	t.Run("what is declared, with what the inventory and the site's networks add", func(t *testing.T) {
		c, err := MachineNetwork(declared(), site)
		if err != nil {
			t.Fatal(err)
		}
		v, p1 := c.Link("v"), c.Link("p1")
		if c.Hostname != "host-1" || p1.MAC.String() != "52:54:00:77:00:02" || v.Gateway4.String() != "10.9.0.254" || v.MTU != 1400 || len(v.Routes) != 1 || v.Search[0] != "rack.example" {
			t.Errorf("%+v, %+v", v, p1)
		}
	})
	t.Run("a port that isn't there is named", func(t *testing.T) {
		m := declared()
		m.Status.Inventory.Nics[0].Name = "eno9"
		_, err := MachineNetwork(m, site)
		if err == nil || !strings.HasPrefix(err.Error(), `machine/web-1: spec.network.links[1].nic: "eno2" is no network card`) {
			t.Error(err)
		}
	})
	t.Run("a machine that declares none and has DHCP has none", func(t *testing.T) {
		m := declared()
		m.Spec.Network = nil
		if c, err := MachineNetwork(m, nil); c != nil || err != nil {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("without DHCP it has its interfaces' addresses", func(t *testing.T) {
		m := declared()
		m.Spec.Network = nil
		c, err := MachineNetwork(m, site)
		if err != nil || len(c.Links) != 1 || c.Links[0].Name != "nic0" || c.Links[0].Gateway4.String() != "10.9.0.254" {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

func TestIgnitionFiles(t *testing.T) {
	m := declared()
	c, err := MachineNetwork(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for os, want := range map[string]string{
		"flatcar": "/etc/systemd/network/20-bedplate-b.network", "": "/etc/systemd/network/20-bedplate-b.network", "debian": "/etc/systemd/network/20-bedplate-b.network",
		"fedora-coreos": "/etc/NetworkManager/system-connections/b.nmconnection", "rhcos": "/etc/NetworkManager/system-connections/b.nmconnection",
	} {
		found := false
		for _, f := range ignitionFiles(c, os) {
			found = found || f.Path == want
		}
		if !found {
			t.Errorf("%q has no %s", os, want)
		}
	}
}

func TestEngine_DeclaredNetwork(t *testing.T) {
	s := mediaServer(t)
	s.applyMachine(&pb.Machine{Metadata: &pb.Metadata{Name: "web-2"}, Spec: &pb.MachineSpec{
		Interfaces: []*pb.Interface{{Mac: "52:54:00:77:02:01"}},
		Network:    &pb.MachineNetwork{Links: []*pb.NetworkLink{{Name: "p0", Mac: "52:54:00:77:02:01", Addresses: []string{"10.9.0.77/24"}}}},
	}})
	config := func() (string, error) {
		m, _ := s.e.index.ByName("web-2")
		n, err := s.e.systemNetwork(m, "")
		return string(n.cloudInit), err
	}
	t.Run("the metadata has it, with what its network adds", func(t *testing.T) {
		s.eventually("the machine is known", func() bool { got, _ := config(); return got != "" })
		got, err := config()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"set-name: p0", "10.9.0.77/24", "via: 10.9.0.254", "mtu: 1400"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is missing in\n%s", want, got)
			}
		}
	})
	t.Run("its address finds the machine, as its metadata needs", func(t *testing.T) {
		if m, ok := s.e.index.ByAddress(addrs([]string{"10.9.0.77"})[0]); !ok || m.Name != "web-2" {
			t.Errorf("%s, %t", m.Name, ok)
		}
	})
	t.Run("another machine can't have its address", func(t *testing.T) {
		_, err := pb.NewMachineServiceClient(s.conn).CreateMachine(s.ctx(), &pb.CreateMachineRequest{Machine: &pb.Machine{
			Metadata: &pb.Metadata{Name: "web-3"}, Spec: &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:03:01", Address: "10.9.0.77/24"}}},
		}})
		if err == nil || !strings.Contains(err.Error(), "web-2") {
			t.Errorf("%v", err)
		}
	})
}
