package engine

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/scan"
	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// room is a server with BMCs in memory, by their addresses.
type room struct {
	*server
	mu     sync.Mutex
	fakes  map[string]*bmctest.Fake
	logins map[string]int
}

func newRoom(t *testing.T, rules ...*pb.Rule) *room {
	t.Helper()
	r := &room{fakes: map[string]*bmctest.Fake{}, logins: map[string]int{}}
	cfg := testConfig(t, t.TempDir())
	cfg.BMC = BMCConfig{PollInterval: 50 * time.Millisecond, RecordConsoles: 1, Dial: func(ctx context.Context, target bmc.Target) (bmc.Driver, error) {
		r.mu.Lock()
		f := r.fakes[target.Address]
		r.logins[target.Address]++
		r.mu.Unlock()
		if f == nil {
			return nil, bmc.ErrUnreachable
		}
		return f.Dial(ctx, target)
	}}
	r.server = start(t, cfg)
	secret := &pb.Secret{Metadata: &pb.Metadata{Name: "factory"}, Spec: &pb.SecretSpec{Data: map[string]string{"password": "secret"}}}
	if _, err := pb.NewSecretServiceClient(r.conn).CreateSecret(r.ctx(), &pb.CreateSecretRequest{Secret: secret}); err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		if _, err := pb.NewRuleServiceClient(r.conn).CreateRule(r.ctx(), &pb.CreateRuleRequest{Rule: rule}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// plug puts a BMC on the network.
func (r *room) plug(address, product, serial string) {
	f := bmctest.NewFake("root", "secret")
	f.SetIdentity(bmc.Identity{Serial: serial, Manufacturer: "Acme", Product: product})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fakes[address] = f
}

// bmcNetwork makes a network of BMCs.
func (r *room) bmcNetwork() {
	r.t.Helper()
	_, err := pb.NewNetworkServiceClient(r.conn).CreateNetwork(r.ctx(), &pb.CreateNetworkRequest{Network: &pb.Network{
		Metadata: &pb.Metadata{Name: "bmcs"}, Spec: &pb.NetworkSpec{Cidr: "10.20.0.0/24", Bmc: true, BmcUsername: "root", BmcPasswordSecret: "factory"},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
}

// lease is what the DHCP service tells of an address that it has given out.
func (r *room) lease(mac, address, hostname string) {
	r.t.Helper()
	m, err := machine.ParseMAC(mac)
	if err != nil {
		r.t.Fatal(err)
	}
	r.e.leaseChanged(lease.Lease{Network: "bmcs", Address: netip.MustParseAddr(address), MAC: m, Hostname: hostname}, false)
}

func (r *room) machine(name string) *pb.Machine {
	m, err := pb.NewMachineServiceClient(r.conn).GetMachine(r.ctx(), &pb.GetMachineRequest{Name: name})
	if err != nil {
		return nil
	}
	return m
}

func (r *room) asked(address string) int { r.mu.Lock(); defer r.mu.Unlock(); return r.logins[address] }

func rule(name string, priority int32, match, action string, change ...func(*pb.RuleSpec)) *pb.Rule {
	out := &pb.Rule{Metadata: &pb.Metadata{Name: name}, Spec: &pb.RuleSpec{Priority: priority, Match: match, Action: action}}
	for _, c := range change {
		c(out.Spec)
	}
	return out
}

func TestBMCLease(t *testing.T) {
	r := newRoom(t)
	r.bmcNetwork()
	r.plug("10.20.0.11", "R1", "S1")
	r.lease("52:54:bc:00:00:01", "10.20.0.11", "idrac-S1")
	t.Run("a BMC that gets an address by DHCP becomes a machine, and is asked what it is", func(t *testing.T) {
		r.eventually("it is known", func() bool { return r.machine("bmc-5254bc000001").GetSpec().GetSerial() == "S1" })
		m := r.machine("bmc-5254bc000001")
		if m.Spec.Bmc.Address != "10.20.0.11" || m.Spec.Bmc.Username != "root" || m.Metadata.Annotations["bedplate/bmc-mac"] != "52:54:bc:00:00:01" {
			t.Errorf("the machine is %v", m)
		}
	})
	t.Run("it is followed to another address", func(t *testing.T) {
		r.plug("10.20.0.12", "R1", "S1")
		r.lease("52:54:bc:00:00:01", "10.20.0.12", "")
		r.eventually("it has moved", func() bool { return r.machine("bmc-5254bc000001").GetSpec().GetBmc().GetAddress() == "10.20.0.12" })
	})
	t.Run("a client on another network is no BMC", func(t *testing.T) {
		r.e.leaseChanged(lease.Lease{Network: "rack", Address: netip.MustParseAddr("10.77.0.9"), MAC: machine.MAC{0x52, 0x54, 0xbc, 0, 0, 9}}, false)
		r.lease("52:54:bc:00:00:02", "10.20.0.13", "") // comes after it
		r.eventually("the next one is known", func() bool { return r.machine("bmc-5254bc000002") != nil })
		if m := r.machine("bmc-5254bc000009"); m != nil {
			t.Errorf("it became %v", m)
		}
	})
}

func TestBMCRules(t *testing.T) {
	r := newRoom(t,
		rule("pdus", 20, `machine.bmc.mac.startsWith("00:c0:b7")`, "refuse", func(s *pb.RuleSpec) { s.Reason = "a power strip" }),
		rule("r1", 10, `machine.inventory.system.product == "R1"`, "accept", func(s *pb.RuleSpec) {
			s.Name, s.Pool, s.Rack, s.Labels = `"node-" + machine.inventory.system.serial.lowerAscii()`, "compute", `"r7"`, map[string]string{"oob": "machine.bmc.address"}
			s.Bmc = &pb.BMC{Username: "other", RotatePassword: true}
		}),
		rule("old", 5, `machine.inventory.system.product == "R0"`, "refuse"),
	)
	r.bmcNetwork()
	for address, product := range map[string]string{"10.20.0.11": "R1", "10.20.0.12": "R0", "10.20.0.13": "R9", "10.20.0.14": "PDU"} {
		r.plug(address, product, "S"+address[len(address)-2:])
	}
	t.Run("one that a rule accepts is named, labelled and taken on, with the access it was found with", func(t *testing.T) {
		r.lease("52:54:bc:00:00:01", "10.20.0.11", "")
		r.eventually("it has its name", func() bool { return r.machine("node-s11").GetStatus().GetRule() == "r1" })
		m := r.machine("node-s11")
		if m.Spec.Pool != "compute" || m.Spec.Rack != "r7" || m.Metadata.Labels["oob"] != "10.20.0.11" || m.Spec.Bmc.Username != "root" || !m.Spec.Bmc.RotatePassword {
			t.Errorf("the machine is %v", m)
		}
		if r.machine("bmc-5254bc000001") != nil {
			t.Error("it is there under its old name as well")
		}
	})
	t.Run("one that a rule refuses for what it is, is set aside", func(t *testing.T) {
		r.lease("52:54:bc:00:00:02", "10.20.0.12", "")
		r.eventually("it is quarantined", func() bool {
			return r.machine("bmc-5254bc000002").GetStatus().GetState() == pb.MachineState_QUARANTINED
		})
	})
	t.Run("one that no rule knows waits for a person, switched by nobody", func(t *testing.T) {
		r.lease("52:54:bc:00:00:03", "10.20.0.13", "")
		r.eventually("it is known", func() bool {
			m := r.machine("bmc-5254bc000003")
			return m.GetStatus().GetBmcInventory() != nil && m.GetStatus().GetJob() == "" && strings.Contains(m.GetStatus().GetNextAction(), "machine accept")
		})
		m := r.machine("bmc-5254bc000003")
		if !strings.Contains(m.Status.Cause, "its BMC was found") || m.Status.State != pb.MachineState_DISCOVERED {
			t.Errorf("it is %s: %s", m.Status.State, m.Status.Cause)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if got := r.fakes["10.20.0.13"].Actions(); len(got) > 0 {
			t.Errorf("its power was told %v", got)
		}
	})
	t.Run("one that is refused by its address is sent no password", func(t *testing.T) {
		r.lease("00:c0:b7:00:00:04", "10.20.0.14", "")
		r.eventually("it is quarantined", func() bool {
			return r.machine("bmc-00c0b7000004").GetStatus().GetState() == pb.MachineState_QUARANTINED
		})
		// Another one is polled meanwhile, and its console recorded.
		r.plug("10.20.0.15", "R1", "S15")
		r.lease("52:54:bc:00:00:05", "10.20.0.15", "")
		r.eventually("it is polled", func() bool { return r.machine("node-s15").GetStatus().GetBmc().GetHealth() == "ok" })
		r.eventually("its console is open", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.fakes["10.20.0.15"].SerialPort() != nil
		})
		if n := r.asked("10.20.0.14"); n != 0 {
			t.Errorf("%d logins", n)
		}
	})
	t.Run("a scan goes by the same rules", func(t *testing.T) {
		r.plug("10.20.0.21", "R1", "S21")
		found := r.e.takeIn(t.Context(), scan.Found{Address: "10.20.0.21", Redfish: true, Vendor: "Acme", Product: "BMC"},
			&pb.ScanBMCsRequest{Apply: true, Username: "root", PasswordSecret: "factory"}, "ana")
		if !found.Created {
			t.Fatalf("found %v", found)
		}
		r.eventually("it has its name", func() bool { return r.machine("node-s21") != nil })
	})
}
