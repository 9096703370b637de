package lifecycle

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// stranger is a machine that made itself known, with its agent connected.
func stranger(now time.Time) *pb.Machine {
	return &pb.Machine{
		Metadata: &pb.Metadata{Name: "m-1", Uid: "uid-of-m-1", Annotations: map[string]string{AnnotationDiscovered: "true"}},
		Spec:     &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:01"}}},
		Status: &pb.MachineStatus{
			Agent: &pb.AgentStatus{BootId: "0123456789abcdef", Connected: true, ConnectTime: timestamppb.New(now)}, InspectTime: timestamppb.New(now),
			Inventory: &pb.Inventory{System: &pb.System{Product: "R1"}, Nics: []*pb.NIC{{Mac: "52:54:00:77:00:01"}}, Bmc: &pb.BMCInfo{Present: true, Address: "10.0.0.9"}},
		},
	}
}

func aRule(spec *pb.RuleSpec) *pb.Rule {
	return &pb.Rule{Metadata: &pb.Metadata{Name: "r1"}, Spec: spec}
}

func (w *world) rule() *pb.Rule {
	w.t.Helper()
	r, err := resource.Get[*pb.Rule](w.t.Context(), w.db, "r1")
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// there reports whether there is such a machine.
func (w *world) there(name string) func() bool {
	return func() bool {
		_, err := resource.Get[*pb.Machine](w.t.Context(), w.db, name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			w.t.Error(err)
		}
		return err == nil
	}
}

func TestDiscovered_Name(t *testing.T) {
	t.Run("a rule gives a machine its name", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.add(aRule(&pb.RuleSpec{Match: "R1", Action: "accept", Name: "web-7", Pool: "compute"}))
		w.add(stranger(w.now()))
		w.eventually("it is there", w.there("web-7"))
		w.eventually("available", w.machineIs("web-7", pb.MachineState_AVAILABLE))
		m := w.machine("web-7")
		if m.Metadata.Annotations[resource.AnnotationFormerName] != "m-1" || m.Metadata.Annotations[AnnotationDiscovered] != "" || m.Spec.Pool != "compute" {
			t.Errorf("the machine is %v", m)
		}
		if w.there("m-1")() {
			t.Error("it is there under its old name as well")
		}
		if s := w.rule().GetStatus(); s.GetAccepted() != 1 || s.GetError() != "" {
			t.Errorf("the rule's status is %v", s)
		}
	})
	t.Run("a machine whose name is taken keeps its own", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.add(&pb.Machine{Metadata: &pb.Metadata{Name: "web-7"}, Spec: &pb.MachineSpec{Maintenance: true}})
		w.add(aRule(&pb.RuleSpec{Action: "accept", Name: "web-7"}))
		w.add(stranger(w.now()))
		w.eventually("available", w.machineIs("m-1", pb.MachineState_AVAILABLE))
		page, err := w.db.Store.List(t.Context(), "/events/Machinem-1NotRenamed", "", 0)
		if err != nil || len(page.KVs) != 1 || string(page.KVs[0].Value) != "rule r1: renaming machine/m-1 to web-7: machine/web-7: already exists" {
			t.Errorf("events %v, %v", page.KVs, err)
		}
	})
	t.Run("a BMC that another machine has is not given to it", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		other := knownByBMC(func(s *pb.MachineSpec) { s.Bmc.Address, s.Maintenance = "10.0.0.9", true })
		w.add(other)
		if _, err := w.db.Store.Txn(t.Context(), nil, []store.Op{store.Put("/index/claims/bmc=10.0.0.9", []byte("web-1"))}); err != nil {
			t.Fatal(err)
		}
		w.add(aRule(&pb.RuleSpec{Action: "accept", Bmc: &pb.BMC{Username: "root"}}))
		w.add(stranger(w.now()))
		w.eventually("it waits", func() bool {
			m := w.machine("m-1")
			return m.Status.State == pb.MachineState_DISCOVERED && strings.Contains(m.Status.Cause, "10.0.0.9 is machine/web-1's already")
		})
	})
}

func TestDiscovered_Rules(t *testing.T) {
	t.Run("a rule that can't be evaluated says so on the machine and on itself", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.add(aRule(&pb.RuleSpec{Match: "broken", Action: "refuse"}))
		w.add(stranger(w.now()))
		w.eventually("it waits", func() bool {
			m := w.machine("m-1")
			return m.Status.State == pb.MachineState_DISCOVERED && strings.Contains(m.Status.Cause, "rule/r1 can't be evaluated on it: spec.match: index out of bounds: 3")
		})
		if got := w.rule().GetStatus().GetError(); got != "on machine/m-1: spec.match: index out of bounds: 3" {
			t.Errorf("the rule's error is %q", got)
		}
		if _, err := resource.Update(t.Context(), w.db, "r1", func(r *pb.Rule) error { r.Spec.Match = ""; return nil }); err != nil {
			t.Fatal(err)
		}
		w.eventually("the corrected rule refuses it", w.machineIs("m-1", pb.MachineState_QUARANTINED))
		w.eventually("and counts it", func() bool { s := w.rule().GetStatus(); return s.GetRefused() == 1 && s.GetError() == "" })
	})
	t.Run("rules that look at LLDP wait for it", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.add(aRule(&pb.RuleSpec{Action: "accept", Rack: "lldp"}))
		w.add(stranger(w.now()))
		w.eventually("it waits", func() bool { return strings.Contains(w.machine("m-1").Status.NextAction, "listens for the switches") })
		if _, err := resource.Update(t.Context(), w.db, "m-1", func(m *pb.Machine) error {
			m.Status.Inventory.NeighboursTime = timestamppb.New(w.now())
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.eventually("available", w.machineIs("m-1", pb.MachineState_AVAILABLE))
	})
	t.Run("but not for ever", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.add(aRule(&pb.RuleSpec{Action: "accept", Rack: "lldp"}))
		w.add(stranger(w.now()))
		w.eventually("it waits", func() bool { return strings.Contains(w.machine("m-1").Status.NextAction, "listens for the switches") })
		w.forward(listenTime)
		w.ctl.send(t.Context(), func(dirty map[string]bool) { dirty["m m-1"] = true })
		w.eventually("available", w.machineIs("m-1", pb.MachineState_AVAILABLE))
	})
}

func TestReady_Cabling(t *testing.T) {
	w := newWorld(t)
	w.run()
	m := stranger(w.now())
	m.Metadata.Annotations = nil
	m.Spec.Interfaces[0].SwitchPort = "Ethernet7"
	w.add(m)
	w.eventually("cabling is checked when the neighbours are known", func() bool {
		s := w.machine("m-1").Status
		return s.State == pb.MachineState_INSPECTING && strings.Contains(s.Cause, "listens for the switches")
	})
	if _, err := resource.Update(t.Context(), w.db, "m-1", func(m *pb.Machine) error {
		m.Status.Inventory.NeighboursTime = timestamppb.New(w.now())
		m.Status.Inventory.Nics[0].Lldp = &pb.LLDPNeighbour{SystemName: "leaf-1", PortId: "Ethernet8"}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the wrong port fails it", func() bool {
		s := w.machine("m-1").Status
		return s.State == pb.MachineState_FAILED && strings.Contains(s.Cause, "interfaces[0].switch_port is Ethernet8, not Ethernet7")
	})
}
