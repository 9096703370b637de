package api

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func TestCreate(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	t.Run("keeps the client's part and fills in its own", func(t *testing.T) {
		m := testMachine("web-1", "52:54:00:77:00:01", "10.77.0.31/24")
		m.Metadata.Labels = map[string]string{"rack": "r1"}
		m.Metadata.Uid = "mine"
		m.Status = &pb.MachineStatus{State: pb.MachineState_ACTIVE, Instance: "x"}
		got := r.createMachine(m)
		if got.GetMetadata().GetUid() == "mine" || got.GetMetadata().GetUid() == "" || got.GetMetadata().GetResourceVersion() == 0 || got.GetStatus() != nil {
			t.Errorf("machine = %v", got)
		}
		read, err := r.machines().GetMachine(ctx, &pb.GetMachineRequest{Name: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, read, protocmp.Transform()); diff != "" {
			t.Errorf("read (-created +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"Created by admin"}, r.events("machine", "web-1")); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
	t.Run("a name that is taken is ALREADY_EXISTS", func(t *testing.T) {
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: testMachine("web-1", "52:54:00:77:00:02", "")})
		wantCode(t, err, codes.AlreadyExists, "machine/web-1 already exists")
	})
	t.Run("wrong fields are named by their paths", func(t *testing.T) {
		m := testMachine("Web_1", "nonsense", "10.77.0.300/24")
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: m})
		wantCode(t, err, codes.InvalidArgument)
		got := violations(err)
		for _, f := range []string{"metadata.name", "spec.interfaces[0].mac", "spec.interfaces[0].address"} {
			if got[f] == "" {
				t.Errorf("%s is not named in %v", f, got)
			}
		}
	})
	t.Run("without a resource it says what is missing", func(t *testing.T) {
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{})
		wantField(t, err, "machine")
		_, err = r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: &pb.Machine{}})
		wantCode(t, err, codes.InvalidArgument, "metadata.name", "spec")
	})
	t.Run("a dry run changes nothing", func(t *testing.T) {
		req := &pb.CreateMachineRequest{Machine: testMachine("dry", "52:54:00:77:00:09", ""), DryRun: true}
		if _, err := r.machines().CreateMachine(ctx, req); err != nil {
			t.Fatal(err)
		}
		_, err := r.machines().GetMachine(ctx, &pb.GetMachineRequest{Name: "dry"})
		wantCode(t, err, codes.NotFound, "machine/dry", "bedplate get machines")
		req.Machine = testMachine("web-1", "52:54:00:77:00:09", "")
		_, err = r.machines().CreateMachine(ctx, req)
		wantCode(t, err, codes.AlreadyExists)
	})
	t.Run("what it refers to must exist", func(t *testing.T) {
		m := testMachine("bmc", "52:54:00:77:00:0a", "")
		m.Spec.Bmc = &pb.BMC{Address: "10.0.0.1", PasswordSecret: "ipmi"}
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: m})
		wantField(t, err, "spec.bmc.password_secret", `no secret "ipmi"`)
	})
}

func TestCreate_RequestID(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	req := &pb.CreateMachineRequest{Machine: testMachine("web-1", "52:54:00:77:00:01", ""), RequestId: "a"}
	first, err := r.machines().CreateMachine(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a second call has the first one's result", func(t *testing.T) {
		again, err := r.machines().CreateMachine(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
			t.Errorf("result (-first +second):\n%s", diff)
		}
	})
	t.Run("also after a restart", func(t *testing.T) {
		r.stop()
		r.start()
		again, err := r.machines().CreateMachine(r.ctx(), req)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
			t.Errorf("result (-first +second):\n%s", diff)
		}
		ctx = r.ctx()
	})
	t.Run("another request under the same id is refused", func(t *testing.T) {
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: testMachine("web-2", "52:54:00:77:00:02", ""), RequestId: "a"})
		wantField(t, err, "request_id")
	})
	t.Run("many at once make one", func(t *testing.T) {
		var wg sync.WaitGroup
		uids := make([]string, 8)
		for i := range uids {
			wg.Go(func() {
				out, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: testMachine("many", "52:54:00:77:00:05", ""), RequestId: "many"})
				if err != nil {
					t.Error(err)
				}
				uids[i] = out.GetMetadata().GetUid()
			})
		}
		wg.Wait()
		for _, uid := range uids {
			if uid != uids[0] {
				t.Fatalf("uids = %v", uids)
			}
		}
	})
	t.Run("a token's secret is repeated, and not stored in clear", func(t *testing.T) {
		req := &pb.CreateTokenRequest{Token: &pb.Token{Metadata: &pb.Metadata{Name: "ci"}, Spec: &pb.TokenSpec{Role: pb.Role_VIEWER}}, RequestId: "tok"}
		a, err := pb.NewTokenServiceClient(r.conn).CreateToken(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := pb.NewTokenServiceClient(r.conn).CreateToken(ctx, req)
		if err != nil || a.GetSecret() == "" || a.GetSecret() != b.GetSecret() {
			t.Errorf("secrets %q and %q, %v", a.GetSecret(), b.GetSecret(), err)
		}
		page, err := r.db.Store.List(ctx, "/", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page.KVs {
			if strings.Contains(string(kv.Value), a.GetSecret()) {
				t.Errorf("%s holds the token", kv.Key)
			}
		}
	})
	t.Run("after an hour it is another request, and the record goes", func(t *testing.T) {
		r.advance(time.Hour)
		_, err := r.machines().CreateMachine(ctx, req)
		wantCode(t, err, codes.AlreadyExists)
		if err := r.api.trimRequestsOnce(ctx); err != nil {
			t.Fatal(err)
		}
		page, err := r.db.Store.List(ctx, requestsPrefix, "", 0)
		if err != nil || len(page.KVs) != 0 {
			t.Errorf("%d records left, %v", len(page.KVs), err)
		}
	})
}

func TestUniqueness(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	m := testMachine("web-1", "52:54:00:77:00:01", "10.77.0.31/24")
	m.Spec.Uuid = "8f7c0a3e-52b1-4d0c-9d3c-0a1b2c3d4e5f"
	r.createMachine(m)
	t.Run("a MAC address that another machine has", func(t *testing.T) {
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: testMachine("web-2", "52-54-00-77-00-01", "")})
		wantField(t, err, "spec.interfaces[0].mac", "52:54:00:77:00:01 is machine/web-1's already")
	})
	t.Run("an address that another machine has", func(t *testing.T) {
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: testMachine("web-2", "52:54:00:77:00:02", "10.77.0.31/16")})
		wantField(t, err, "spec.interfaces[0].address", "10.77.0.31 is machine/web-1's already")
	})
	t.Run("a UUID that another machine has", func(t *testing.T) {
		other := testMachine("web-2", "52:54:00:77:00:02", "")
		other.Spec.Uuid = m.Spec.Uuid
		_, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: other})
		wantField(t, err, "spec.uuid", "web-1")
	})
	t.Run("by an update", func(t *testing.T) {
		r.createMachine(testMachine("web-3", "52:54:00:77:00:03", ""))
		_, err := r.machines().UpdateMachine(ctx, &pb.UpdateMachineRequest{Machine: testMachine("web-3", "52:54:00:77:00:01", "")})
		wantField(t, err, "spec.interfaces[0].mac", "web-1")
	})
	t.Run("what was given up can be taken", func(t *testing.T) {
		if _, err := r.machines().UpdateMachine(ctx, &pb.UpdateMachineRequest{Machine: testMachine("web-3", "52:54:00:77:00:04", "")}); err != nil {
			t.Fatal(err)
		}
		r.createMachine(testMachine("web-4", "52:54:00:77:00:03", ""))
		if _, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "web-4"}); err != nil {
			t.Fatal(err)
		}
		r.createMachine(testMachine("web-5", "52:54:00:77:00:03", ""))
	})
	t.Run("of many at once one gets it", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make([]error, 16)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: testMachine(fmt.Sprintf("race-%d", i), "52:54:00:77:01:01", "")})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			wantField(t, err, "spec.interfaces[0].mac", "already")
		}
		if won != 1 {
			t.Errorf("%d machines have the address, want 1", won)
		}
	})
	t.Run("networks that overlap, also at once", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = pb.NewNetworkServiceClient(r.conn).CreateNetwork(ctx, &pb.CreateNetworkRequest{Network: &pb.Network{
					Metadata: &pb.Metadata{Name: fmt.Sprintf("net-%d", i)},
					Spec:     &pb.NetworkSpec{Cidr: fmt.Sprintf("10.77.0.0/%d", 16+i), DhcpMode: pb.DHCPMode_FULL},
				}})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			wantField(t, err, "spec.cidr", "overlaps")
		}
		if won != 1 {
			t.Errorf("%d networks were made, want 1", won)
		}
	})
}

func TestUpdate(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	made := r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	// The server's part, as a controller writes it.
	withStatus, err := resource.Update(ctx, r.db, "web-1", func(m *pb.Machine) error {
		m.Status = &pb.MachineStatus{State: pb.MachineState_AVAILABLE}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	update := func(change func(*pb.Machine)) (*pb.Machine, error) {
		m := testMachine("web-1", "52:54:00:77:00:01", "")
		change(m)
		return r.machines().UpdateMachine(ctx, &pb.UpdateMachineRequest{Machine: m})
	}
	t.Run("with an old version it is ABORTED and says what to do", func(t *testing.T) {
		_, err := update(func(m *pb.Machine) { m.Metadata.ResourceVersion = made.GetMetadata().GetResourceVersion() })
		wantCode(t, err, codes.Aborted, "changed by someone else", "get it again")
	})
	t.Run("of another incarnation it is ABORTED", func(t *testing.T) {
		_, err := update(func(m *pb.Machine) { m.Metadata.Uid = "another" })
		wantCode(t, err, codes.Aborted, "deleted and made again")
	})
	t.Run("that changes nothing is no change", func(t *testing.T) {
		got, err := update(func(*pb.Machine) {})
		if err != nil || got.GetMetadata().GetResourceVersion() != withStatus.GetMetadata().GetResourceVersion() {
			t.Errorf("version = %d, %v; want %d", got.GetMetadata().GetResourceVersion(), err, withStatus.GetMetadata().GetResourceVersion())
		}
	})
	t.Run("replaces labels and spec, keeps status and identity", func(t *testing.T) {
		got, err := update(func(m *pb.Machine) {
			m.Metadata.Labels = map[string]string{"rack": "r2"}
			m.Metadata.ResourceVersion = withStatus.GetMetadata().GetResourceVersion()
			m.Spec.Hostname = "web"
			m.Status = &pb.MachineStatus{State: pb.MachineState_FAILED}
		})
		if err != nil {
			t.Fatal(err)
		}
		if got.GetStatus().GetState() != pb.MachineState_AVAILABLE || got.GetMetadata().GetUid() != made.GetMetadata().GetUid() ||
			got.GetMetadata().GetLabels()["rack"] != "r2" || got.GetSpec().GetHostname() != "web" ||
			!got.GetMetadata().GetCreateTime().AsTime().Equal(made.GetMetadata().GetCreateTime().AsTime()) {
			t.Errorf("machine = %v", got)
		}
		want := []string{"Updated by admin metadata.labels, spec.hostname", "Created by admin"}
		if diff := cmp.Diff(want, r.events("Machine", "web-1")); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
	t.Run("of what isn't there is NOT_FOUND, or creates it if it may", func(t *testing.T) {
		req := &pb.UpdateMachineRequest{Machine: testMachine("web-2", "52:54:00:77:00:02", "")}
		_, err := r.machines().UpdateMachine(ctx, req)
		wantCode(t, err, codes.NotFound, "machine/web-2")
		req.AllowMissing, req.DryRun = true, true
		if _, err := r.machines().UpdateMachine(ctx, req); err != nil {
			t.Fatal(err)
		}
		req.DryRun = false
		if _, err := r.machines().UpdateMachine(ctx, req); err != nil {
			t.Fatal(err)
		}
		if _, err := r.machines().GetMachine(ctx, &pb.GetMachineRequest{Name: "web-2"}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("of a version that was deleted is ABORTED", func(t *testing.T) {
		m := testMachine("gone", "52:54:00:77:00:0f", "")
		m.Metadata.ResourceVersion = 3
		_, err := r.machines().UpdateMachine(ctx, &pb.UpdateMachineRequest{Machine: m, AllowMissing: true})
		wantCode(t, err, codes.Aborted, "was deleted")
	})
	t.Run("by many at once all arrive", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if _, err := update(func(m *pb.Machine) { m.Spec.Rack = fmt.Sprint(i) }); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestDelete(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	made := r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	t.Run("of another version is ABORTED", func(t *testing.T) {
		_, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "web-1", ResourceVersion: made.GetMetadata().GetResourceVersion() + 1})
		wantCode(t, err, codes.Aborted)
	})
	t.Run("removes it", func(t *testing.T) {
		if _, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "web-1", ResourceVersion: made.GetMetadata().GetResourceVersion()}); err != nil {
			t.Fatal(err)
		}
		_, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "web-1"})
		wantCode(t, err, codes.NotFound)
		if diff := cmp.Diff([]string{"Deleted by admin", "Created by admin"}, r.events("machines", "web-1")); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
	t.Run("names that can't be are refused", func(t *testing.T) {
		for _, name := range []string{"", "../x", "A", "a/b"} {
			_, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: name})
			wantField(t, err, "name")
			_, err = r.machines().GetMachine(ctx, &pb.GetMachineRequest{Name: name})
			wantField(t, err, "name")
		}
	})
}

func TestList(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	for i := range 25 {
		m := testMachine(fmt.Sprintf("m-%02d", i), fmt.Sprintf("52:54:00:77:00:%02x", i), "")
		m.Metadata.Labels = map[string]string{"odd": fmt.Sprint(i%2 == 1)}
		r.createMachine(m)
	}
	pages := func(t *testing.T, req *pb.ListMachinesRequest) (names []string, count int) {
		t.Helper()
		revision := int64(0)
		for {
			out, err := r.machines().ListMachines(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			count++
			if revision == 0 {
				revision = out.GetResourceVersion()
			}
			if out.GetResourceVersion() != revision || revision == 0 {
				t.Errorf("page %d has version %d, the first one %d", count, out.GetResourceVersion(), revision)
			}
			for _, m := range out.GetMachines() {
				names = append(names, m.GetMetadata().GetName())
			}
			if out.GetNextPageToken() == "" {
				return names, count
			}
			req.PageToken = out.GetNextPageToken()
			r.createMachine(testMachine(fmt.Sprintf("a-%d-%d", len(names), time.Duration(count)), fmt.Sprintf("52:54:00:78:%02x:%02x", len(names), count), ""))
		}
	}
	t.Run("gives every one once, in order, in pages", func(t *testing.T) {
		names, count := pages(t, &pb.ListMachinesRequest{PageSize: 10})
		if len(names) != 25 || count != 3 || names[0] != "m-00" || names[24] != "m-24" {
			t.Errorf("%d pages: %v", count, names)
		}
	})
	t.Run("selects by labels", func(t *testing.T) {
		names, _ := pages(t, &pb.ListMachinesRequest{PageSize: 5, LabelSelector: "odd=true"})
		if len(names) != 12 || names[0] != "m-01" {
			t.Errorf("names = %v", names)
		}
	})
	t.Run("wrong requests name the field", func(t *testing.T) {
		out, err := r.machines().ListMachines(ctx, &pb.ListMachinesRequest{PageSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		for field, req := range map[string]*pb.ListMachinesRequest{
			"page_size":      {PageSize: -1},
			"label_selector": {LabelSelector: "a in b"},
			"page_token":     {PageToken: out.GetNextPageToken(), LabelSelector: "odd=true"},
		} {
			_, err := r.machines().ListMachines(ctx, req)
			wantField(t, err, field)
		}
		_, err = r.machines().ListMachines(ctx, &pb.ListMachinesRequest{PageToken: "???"})
		wantField(t, err, "page_token")
	})
	t.Run("a page has at most some 3 MiB", func(t *testing.T) {
		images := pb.NewInstanceServiceClient(r.conn)
		if _, err := pb.NewImageServiceClient(r.conn).CreateImage(ctx, &pb.CreateImageRequest{Image: &pb.Image{Metadata: &pb.Metadata{Name: "i"}, Spec: &pb.ImageSpec{}}}); err != nil {
			t.Fatal(err)
		}
		for i := range 14 {
			_, err := images.CreateInstance(ctx, &pb.CreateInstanceRequest{Instance: &pb.Instance{
				Metadata: &pb.Metadata{Name: fmt.Sprintf("big-%02d", i)},
				Spec:     &pb.InstanceSpec{Image: "i", Selector: "true", UserData: strings.Repeat("x", 256<<10)},
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		seen := 0
		for token := ""; ; {
			out, err := images.ListInstances(ctx, &pb.ListInstancesRequest{PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			seen += len(out.GetInstances())
			if token = out.GetNextPageToken(); token == "" {
				break
			}
		}
		if seen != 14 {
			t.Errorf("%d instances, want 14", seen)
		}
	})
}
