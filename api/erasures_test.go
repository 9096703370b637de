package api

import (
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func TestErasures(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"web-1-20261121-120000", "web-2-20261121-120000"} {
		_, err := resource.Create(t.Context(), r.db, &pb.Erasure{
			Metadata: &pb.Metadata{Name: name, Labels: map[string]string{"bedplate/machine": name[:5]}},
			Status:   &pb.ErasureStatus{Machine: name[:5], Ok: true, Document: "{}\n"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c, ctx := pb.NewErasureServiceClient(r.conn), r.as(r.token("viewer", pb.Role_VIEWER))
	t.Run("a viewer reads them", func(t *testing.T) {
		list, err := c.ListErasures(ctx, &pb.ListErasuresRequest{LabelSelector: "bedplate/machine=web-2"})
		if err != nil || len(list.GetErasures()) != 1 || list.GetErasures()[0].GetStatus().GetMachine() != "web-2" {
			t.Errorf("%v, %v", list, err)
		}
		e, err := c.GetErasure(ctx, &pb.GetErasureRequest{Name: "web-1-20261121-120000"})
		if err != nil || e.GetStatus().GetDocument() != "{}\n" {
			t.Errorf("%v, %v", e, err)
		}
		_, err = c.GetErasure(ctx, &pb.GetErasureRequest{Name: "web-9"})
		wantCode(t, err, codes.NotFound)
	})
	t.Run("without a token nobody does", func(t *testing.T) {
		_, err := c.ListErasures(r.as("nonsense"), &pb.ListErasuresRequest{})
		wantCode(t, err, codes.Unauthenticated)
	})
}

func TestMachines_RequestedBy(t *testing.T) {
	r := newRig(t)
	r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	alice := r.as(r.token("alice", pb.Role_OPERATOR))
	update := func(change func(*pb.Machine)) string {
		t.Helper()
		m, err := r.machines().GetMachine(alice, &pb.GetMachineRequest{Name: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		m, err = r.machines().UpdateMachine(alice, &pb.UpdateMachineRequest{Machine: m})
		if err != nil {
			t.Fatal(err)
		}
		return m.GetStatus().GetRequestedBy()
	}
	if got := update(func(m *pb.Machine) { m.Spec.Rack = "r1" }); got != "" {
		t.Errorf("another rack was asked for by %q", got)
	}
	if got := update(func(m *pb.Machine) { m.Spec.Retired = true }); got != "alice" {
		t.Errorf("retiring was asked for by %q", got)
	}
}
