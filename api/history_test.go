package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/inspection/history"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// inspect gives a machine an inventory and test results, an hour later.
func (r *rig) inspect(name, product string) {
	r.t.Helper()
	r.advance(time.Hour)
	before, err := resource.Get[*pb.Machine](r.t.Context(), r.db, name)
	if err != nil {
		r.t.Fatal(err)
	}
	after := proto.Clone(before).(*pb.Machine)
	after.Status = &pb.MachineStatus{
		Inventory: &pb.Inventory{System: &pb.System{Product: product}}, TestTime: timestamppb.New(r.clock()),
		Tests: []*pb.TestResult{{Test: "cpu", Measure: "throughput", Value: 1, Message: strings.Repeat("x", 300), Ok: true}},
	}
	ops, err := history.New(r.db).Ops(r.t.Context(), before, after)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.db.Store.Txn(r.t.Context(), nil, append(ops, resource.Put(after))); err != nil {
		r.t.Fatal(err)
	}
}

func TestMachineHistory(t *testing.T) {
	r := newRig(t)
	r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	r.createMachine(testMachine("web-2", "52:54:00:77:00:02", ""))
	for i := range 5 {
		r.inspect("web-1", fmt.Sprint("R", i+1))
	}
	ctx := r.as(r.token("viewer", pb.Role_VIEWER))
	t.Run("inventories come newest first, a page at a time, with their changes", func(t *testing.T) {
		var got []string
		for token := ""; ; {
			out, err := r.machines().ListMachineInventories(ctx, &pb.ListMachineInventoriesRequest{Name: "web-1", PageSize: 2, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range out.GetRecords() {
				if rec.GetInventory() != nil {
					t.Error("the inventory wasn't asked for")
				}
				got = append(got, fmt.Sprintf("%d:%d", rec.GetNumber(), len(rec.GetChanges())))
			}
			if token = out.GetNextPageToken(); token == "" {
				break
			}
		}
		if text := strings.Join(got, " "); text != "5:1 4:1 3:1 2:1 1:0" {
			t.Errorf("records %s", text)
		}
	})
	t.Run("in full when that is asked for", func(t *testing.T) {
		out, err := r.machines().ListMachineInventories(ctx, &pb.ListMachineInventoriesRequest{Name: "web-1", Full: true})
		if err != nil || len(out.GetRecords()) != 5 || out.GetRecords()[4].GetInventory().GetSystem().GetProduct() != "R1" {
			t.Errorf("%v, %v", out, err)
		}
	})
	t.Run("two of them are compared", func(t *testing.T) {
		out, err := r.machines().DiffMachineInventories(ctx, &pb.DiffMachineInventoriesRequest{Name: "web-1", From: "2"})
		if err != nil || len(out.GetDifferences()) != 1 || out.GetDifferences()[0].GetWant() != "R2" || out.GetDifferences()[0].GetGot() != "R5" {
			t.Errorf("%v, %v", out, err)
		}
	})
	t.Run("test runs come newest first", func(t *testing.T) {
		out, err := r.machines().ListMachineTests(ctx, &pb.ListMachineTestsRequest{Name: "web-1", PageSize: 3})
		if err != nil || len(out.GetRuns()) != 3 || out.GetRuns()[0].GetNumber() != 5 || out.GetNextPageToken() == "" {
			t.Errorf("%v, %v", out, err)
		}
	})
	t.Run("over REST as well", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v1/machines/web-1:inventoryDiff?from=1&to=2", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+r.admin)
		resp, err := r.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body struct {
			Differences []struct{ Path, Want, Got string }
		}
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || len(body.Differences) != 1 || body.Differences[0].Path != "system.product" {
			t.Errorf("%+v, %v", body, err)
		}
	})
	t.Run("what can't be found says so", func(t *testing.T) {
		_, err := r.machines().ListMachineTests(ctx, &pb.ListMachineTestsRequest{Name: "nobody"})
		if status.Code(err) != codes.NotFound {
			t.Error(err)
		}
		_, err = r.machines().DiffMachineInventories(ctx, &pb.DiffMachineInventoriesRequest{Name: "web-1", From: "9"})
		wantField(t, err, "from")
		_, err = r.machines().DiffMachineInventories(ctx, &pb.DiffMachineInventoriesRequest{Name: "web-2"})
		wantField(t, err, "name")
		_, err = r.machines().ListMachineInventories(ctx, &pb.ListMachineInventoriesRequest{Name: "web-1", PageToken: "???"})
		wantField(t, err, "page_token")
	})
}
