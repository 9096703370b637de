package rpc

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/bedplate/bedplate/discovery"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func TestServer_Renamed(t *testing.T) {
	r := newRig(t)
	token := r.token("")
	c := r.client("a")
	name, err := c.enrol(token)
	if err != nil {
		t.Fatal(err)
	}
	older := r.client("b")
	if _, err := older.enrol(r.token("")); err != nil {
		t.Fatal(err)
	}
	c = r.client("c")
	if _, err := c.enrol(r.token("")); err != nil {
		t.Fatal(err)
	}
	st, err := c.connect("", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := discovery.Rename(t.Context(), r.db, name, "web-1", func(*pb.Machine) error { return nil }, nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Run("the stream under the old name ends so that the agent connects again", func(t *testing.T) {
		_, err := st.Recv()
		wantCode(t, err, codes.Canceled, "connect again")
	})
	t.Run("its certificate is good for the new name", func(t *testing.T) {
		st, err := c.connect("", 0)
		if err != nil {
			t.Fatal(err)
		}
		m, err := resource.Get[*pb.Machine](t.Context(), r.db, "web-1")
		if err != nil || !m.GetStatus().GetAgent().GetConnected() {
			t.Errorf("machine = %v, %v", m, err)
		}
		if err := st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Inventory{Inventory: &pb.InventoryReport{Inventory: &pb.Inventory{Kernel: "6.1"}}}}); err != nil {
			t.Fatal(err)
		}
		if got := <-r.inventories; got != "web-1 6.1" {
			t.Errorf("inventory of %q", got)
		}
	})
	t.Run("that of another boot is not", func(t *testing.T) {
		_, err := older.connect("", 0)
		wantCode(t, err, codes.Aborted, "")
	})
	t.Run("a token that was used stays used", func(t *testing.T) {
		r.machine(name) // where Discover looks
		_, err := r.client("d").enrol(token)
		wantCode(t, err, codes.Unauthenticated, "used already")
	})
	t.Run("a machine that takes the old name isn't taken for the one that had it", func(t *testing.T) {
		_, err := c.connect("", 0)
		wantCode(t, err, codes.Aborted, "")
	})
	t.Run("a token for the old name enrols under the new one", func(t *testing.T) {
		if err := resource.Delete[*pb.Machine](t.Context(), r.db, name, 0); err != nil {
			t.Fatal(err)
		}
		got, err := r.client("e").enrol(r.token("m-525400000001"))
		if err != nil || got != "web-1" {
			t.Errorf("%q, %v", got, err)
		}
	})
}
