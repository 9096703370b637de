package api

import (
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func TestWorkflows(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	r.createTemplate("install")
	workflow := func(name, template, machine string) *pb.CreateWorkflowRequest {
		return &pb.CreateWorkflowRequest{Workflow: &pb.Workflow{
			Metadata: &pb.Metadata{Name: name},
			Spec:     &pb.WorkflowSpec{Template: template, Machine: machine, Inputs: stringInput("debian")},
		}}
	}
	t.Run("an unknown machine is an error at its field", func(t *testing.T) {
		_, err := r.workflows().CreateWorkflow(ctx, workflow("w", "install", "web-9"))
		wantField(t, err, "spec.machine", `there is no machine "web-9"`, "bedplate get machines")
	})
	t.Run("an unknown template is an error at its field", func(t *testing.T) {
		_, err := r.workflows().CreateWorkflow(ctx, workflow("w", "instal", "web-1"))
		wantField(t, err, "spec.template", `there is no template "instal"`)
	})
	t.Run("what the workflow service says of inputs arrives", func(t *testing.T) {
		req := workflow("w", "install", "web-1")
		req.Workflow.Spec.Inputs = nil
		_, err := r.workflows().CreateWorkflow(ctx, req)
		wantField(t, err, "spec.inputs.image", "missing")
	})
	t.Run("a template with an error is refused at its field", func(t *testing.T) {
		_, err := pb.NewTemplateServiceClient(r.conn).CreateTemplate(ctx, &pb.CreateTemplateRequest{Template: &pb.Template{
			Metadata: &pb.Metadata{Name: "bad"}, Spec: &pb.TemplateSpec{Steps: []*pb.Step{{Uses: "inventory"}, {Uses: "disk.eat"}}},
		}})
		wantField(t, err, "spec.steps[1].uses", `no action "disk.eat"`)
	})
	t.Run("a machine that is set aside is refused", func(t *testing.T) {
		m := testMachine("aside", "52:54:00:77:00:02", "")
		m.Spec.Maintenance = true
		r.createMachine(m)
		_, err := r.workflows().CreateWorkflow(ctx, workflow("w", "install", "aside"))
		wantField(t, err, "spec.machine", "set aside")
	})
	t.Run("is created with the template's copy", func(t *testing.T) {
		wf, err := r.workflows().CreateWorkflow(ctx, workflow("w", "install", "web-1"))
		if err != nil {
			t.Fatal(err)
		}
		if wf.GetStatus().GetState() != pb.WorkflowState_WAITING_FOR_MACHINE || len(wf.GetStatus().GetTemplate().GetSteps()) != 1 {
			t.Errorf("status = %v", wf.GetStatus())
		}
	})
	t.Run("its spec stays, its labels may change", func(t *testing.T) {
		req := &pb.UpdateWorkflowRequest{Workflow: workflow("w", "install", "web-1").Workflow}
		req.Workflow.Metadata.Labels = map[string]string{"a": "b"}
		if _, err := r.workflows().UpdateWorkflow(ctx, req); err != nil {
			t.Fatal(err)
		}
		req.Workflow.Spec.MachineTimeout = "5m"
		_, err := r.workflows().UpdateWorkflow(ctx, req)
		wantField(t, err, "spec", "create another one")
	})
	t.Run("its machine can't be deleted while it runs, nor it", func(t *testing.T) {
		_, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "web-1"})
		wantCode(t, err, codes.FailedPrecondition, "workflow/w", "bedplate workflow cancel w")
		_, err = r.workflows().DeleteWorkflow(ctx, &pb.DeleteWorkflowRequest{Name: "w"})
		wantCode(t, err, codes.FailedPrecondition, "cancel it first")
	})
	t.Run("can be cancelled once, by name of the token", func(t *testing.T) {
		wf, err := r.workflows().CancelWorkflow(ctx, &pb.CancelWorkflowRequest{Name: "w", Reason: "enough"})
		if err != nil || wf.GetStatus().GetCause() != "enough by admin" {
			t.Errorf("workflow = %v, %v", wf, err)
		}
		_, err = r.workflows().CancelWorkflow(ctx, &pb.CancelWorkflowRequest{Name: "w"})
		wantCode(t, err, codes.FailedPrecondition, "has ended already")
		_, err = r.workflows().RetryWorkflow(ctx, &pb.RetryWorkflowRequest{Name: "nope"})
		wantCode(t, err, codes.NotFound, "workflow/nope")
	})
	t.Run("a running step's progress is shown", func(t *testing.T) {
		got, err := r.workflows().GetWorkflow(ctx, &pb.GetWorkflowRequest{Name: "w"})
		if err != nil {
			t.Fatal(err)
		}
		list, err := r.workflows().ListWorkflows(ctx, &pb.ListWorkflowsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, wf := range append(list.GetWorkflows(), got) {
			if p := wf.GetStatus().GetSteps()[0].GetProgress(); p.GetDone() != 1 || p.GetTotal() != 2 {
				t.Errorf("progress of workflow/%s is %v", wf.GetMetadata().GetName(), p)
			}
		}
	})
	t.Run("can be followed to its end", func(t *testing.T) {
		stream, err := r.workflows().FollowWorkflow(ctx, &pb.FollowWorkflowRequest{Name: "w", NoFollow: true})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			msg, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, msg.GetLog().GetText())
		}
		if diff := cmp.Diff([]string{"one", "two"}, got); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
	t.Run("when it has ended both can be deleted", func(t *testing.T) {
		if _, err := r.workflows().DeleteWorkflow(ctx, &pb.DeleteWorkflowRequest{Name: "w"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "web-1"}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a machine is either deleted or taken, never both", func(t *testing.T) {
		for range 20 {
			r.createMachine(testMachine("race", "52:54:00:77:00:0c", ""))
			var wg sync.WaitGroup
			var created, deleted error
			wg.Go(func() { _, created = r.workflows().CreateWorkflow(ctx, workflow("race", "install", "race")) })
			wg.Go(func() { _, deleted = r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "race"}) })
			wg.Wait()
			if (created == nil) == (deleted == nil) {
				t.Fatalf("created: %v, deleted: %v", created, deleted)
			}
			if created == nil {
				if _, err := r.workflows().CancelWorkflow(ctx, &pb.CancelWorkflowRequest{Name: "race"}); err != nil {
					t.Fatal(err)
				}
				if _, err := r.workflows().DeleteWorkflow(ctx, &pb.DeleteWorkflowRequest{Name: "race"}); err != nil {
					t.Fatal(err)
				}
				// The index hears of a cancel by watch, which takes a moment.
				for {
					_, err := r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "race"})
					if err == nil {
						break
					}
					wantCode(t, err, codes.FailedPrecondition)
				}
			}
		}
	})
}

func TestInstances(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	images, instances := pb.NewImageServiceClient(r.conn), pb.NewInstanceServiceClient(r.conn)
	r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	if _, err := images.CreateImage(ctx, &pb.CreateImageRequest{Image: &pb.Image{
		Metadata: &pb.Metadata{Name: "debian"}, Spec: &pb.ImageSpec{Url: "http://10.0.0.1/debian.raw.zst"},
	}}); err != nil {
		t.Fatal(err)
	}
	instance := func(name string) *pb.Instance {
		return &pb.Instance{Metadata: &pb.Metadata{Name: name}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}}
	}
	create := func(i *pb.Instance) error {
		_, err := instances.CreateInstance(ctx, &pb.CreateInstanceRequest{Instance: i})
		return err
	}
	t.Run("what it names must exist", func(t *testing.T) {
		for field, change := range map[string]func(*pb.InstanceSpec){
			"spec.machine":  func(s *pb.InstanceSpec) { s.Machine = "web-9" },
			"spec.image":    func(s *pb.InstanceSpec) { s.Image = "windows" },
			"spec.template": func(s *pb.InstanceSpec) { s.Template = "mine" },
		} {
			i := instance("a")
			change(i.Spec)
			wantField(t, create(i), field, "there is no")
		}
	})
	if err := create(instance("a")); err != nil {
		t.Fatal(err)
	}
	t.Run("a machine is given once", func(t *testing.T) {
		wantField(t, create(instance("b")), "spec.machine", "instance/a")
	})
	t.Run("what it uses can't be deleted", func(t *testing.T) {
		_, err := images.DeleteImage(ctx, &pb.DeleteImageRequest{Name: "debian"})
		wantCode(t, err, codes.FailedPrecondition, "image/debian is used by instance/a")
		_, err = r.machines().DeleteMachine(ctx, &pb.DeleteMachineRequest{Name: "web-1"})
		wantCode(t, err, codes.FailedPrecondition, "instance/a")
	})
	t.Run("what is on the disk can't be changed, the rest can", func(t *testing.T) {
		i := instance("a")
		i.Spec.UserData = "#cloud-config\n"
		if _, err := instances.UpdateInstance(ctx, &pb.UpdateInstanceRequest{Instance: i}); err != nil {
			t.Fatal(err)
		}
		i.Spec.Machine, i.Spec.Selector = "", "true"
		_, err := instances.UpdateInstance(ctx, &pb.UpdateInstanceRequest{Instance: i})
		wantCode(t, err, codes.InvalidArgument, "spec.machine", "spec.selector", "create it again")
	})
	t.Run("deleting one asks for its release", func(t *testing.T) {
		for range 2 {
			if _, err := instances.DeleteInstance(ctx, &pb.DeleteInstanceRequest{Name: "a"}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := instances.GetInstance(ctx, &pb.GetInstanceRequest{Name: "a"})
		if err != nil || !got.GetStatus().GetDeleting() {
			t.Errorf("instance = %v, %v", got, err)
		}
		want := []string{"ReleaseRequested by admin its machine's disks are wiped, then it is gone", "Updated by admin spec.user_data", "Created by admin"}
		if diff := cmp.Diff(want, r.events("instance", "a")); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestSecrets(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	secrets := pb.NewSecretServiceClient(r.conn)
	secret := func(data map[string]string) *pb.Secret {
		return &pb.Secret{Metadata: &pb.Metadata{Name: "bmc"}, Spec: &pb.SecretSpec{Data: data}}
	}
	hidden := func(t *testing.T, s *pb.Secret, keys ...string) {
		t.Helper()
		if len(s.GetSpec().GetData()) != 0 || len(s.GetStatus().GetSealed()) != 0 {
			t.Errorf("secret = %v", s)
		}
		if diff := cmp.Diff(keys, s.GetStatus().GetKeys()); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
	}
	t.Run("values go in and don't come out", func(t *testing.T) {
		made, err := secrets.CreateSecret(ctx, &pb.CreateSecretRequest{Secret: secret(map[string]string{"user": "root", "password": "hunter22"}), RequestId: "x"})
		if err != nil {
			t.Fatal(err)
		}
		hidden(t, made, "password", "user")
		got, err := secrets.GetSecret(ctx, &pb.GetSecretRequest{Name: "bmc"})
		if err != nil {
			t.Fatal(err)
		}
		hidden(t, got, "password", "user")
		list, err := secrets.ListSecrets(ctx, &pb.ListSecretsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		hidden(t, list.GetSecrets()[0], "password", "user")
	})
	t.Run("the store has them sealed only", func(t *testing.T) {
		page, err := r.db.Store.List(ctx, "/", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page.KVs {
			if strings.Contains(string(kv.Value), "hunter22") {
				t.Errorf("%s holds the password", kv.Key)
			}
		}
		stored, err := resource.Get[*pb.Secret](ctx, r.db, "bmc")
		if err != nil {
			t.Fatal(err)
		}
		values, err := r.api.cfg.Sealer.(interface {
			OpenValues(string, []byte) (map[string]string, error)
		}).OpenValues("bmc", stored.GetStatus().GetSealed())
		if err != nil || values["password"] != "hunter22" {
			t.Errorf("values = %v, %v", values, err)
		}
	})
	t.Run("an update without values keeps them, one with values replaces all", func(t *testing.T) {
		s := secret(nil)
		s.Metadata.Labels = map[string]string{"a": "b"}
		got, err := secrets.UpdateSecret(ctx, &pb.UpdateSecretRequest{Secret: s})
		if err != nil {
			t.Fatal(err)
		}
		hidden(t, got, "password", "user")
		if got, err = secrets.UpdateSecret(ctx, &pb.UpdateSecretRequest{Secret: secret(map[string]string{"token": "t"})}); err != nil {
			t.Fatal(err)
		}
		hidden(t, got, "token")
		want := []string{"Updated by admin metadata.labels, spec.data", "Updated by admin metadata.labels", "Created by admin"}
		if diff := cmp.Diff(want, r.events("secret", "bmc")); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
	t.Run("without values there is nothing to create", func(t *testing.T) {
		s := secret(nil)
		s.Metadata.Name = "empty"
		_, err := secrets.CreateSecret(ctx, &pb.CreateSecretRequest{Secret: s})
		wantField(t, err, "spec.data")
	})
	t.Run("too much is refused", func(t *testing.T) {
		data := map[string]string{}
		for _, k := range strings.Split("abcdefghijkl", "") {
			data[k] = strings.Repeat("x", 60000)
		}
		_, err := secrets.UpdateSecret(ctx, &pb.UpdateSecretRequest{Secret: secret(data)})
		wantField(t, err, "spec.data")
	})
}

func TestUploadImage(t *testing.T) {
	r := newRig(t)
	ctx := r.ctx()
	images := pb.NewImageServiceClient(r.conn)
	if _, err := images.CreateImage(ctx, &pb.CreateImageRequest{Image: &pb.Image{Metadata: &pb.Metadata{Name: "debian"}, Spec: &pb.ImageSpec{}}}); err != nil {
		t.Fatal(err)
	}
	upload := func(h *pb.UploadImageHeader, parts ...string) (*pb.UploadImageResponse, error) {
		stream, err := images.UploadImage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		// A failed Send means that the answer is there already.
		if h != nil {
			_ = stream.Send(&pb.UploadImageRequest{Part: &pb.UploadImageRequest_Header{Header: h}})
		}
		for _, p := range parts {
			_ = stream.Send(&pb.UploadImageRequest{Part: &pb.UploadImageRequest_Data{Data: []byte(p)}})
		}
		return stream.CloseAndRecv()
	}
	t.Run("an image without content waits for it", func(t *testing.T) {
		got, err := images.GetImage(ctx, &pb.GetImageRequest{Name: "debian"})
		if err != nil || got.GetStatus().GetState() != pb.ImageState_IMAGE_PENDING {
			t.Errorf("image = %v, %v", got, err)
		}
	})
	t.Run("a truncated file is refused", func(t *testing.T) {
		_, err := upload(&pb.UploadImageHeader{Name: "debian", SizeBytes: 100}, "short")
		wantCode(t, err, codes.FailedPrecondition, "cut short")
	})
	t.Run("a wrong digest is refused", func(t *testing.T) {
		_, err := upload(&pb.UploadImageHeader{Name: "debian", Digest: fakeDigest([]byte("abc"))}, "not three")
		wantCode(t, err, codes.FailedPrecondition, "has the digest")
	})
	t.Run("an unknown image is NOT_FOUND", func(t *testing.T) {
		_, err := upload(&pb.UploadImageHeader{Name: "nope"}, "x")
		wantCode(t, err, codes.NotFound, "image/nope")
	})
	t.Run("without a header it says so", func(t *testing.T) {
		_, err := upload(nil, "x")
		wantField(t, err, "header")
		_, err = upload(nil)
		wantField(t, err, "header")
	})
	t.Run("a chunk that is too large is refused", func(t *testing.T) {
		_, err := upload(&pb.UploadImageHeader{Name: "debian"}, strings.Repeat("x", maxUploadChunk+1))
		wantField(t, err, "data")
	})
	t.Run("content makes it ready", func(t *testing.T) {
		out, err := upload(&pb.UploadImageHeader{Name: "debian", SizeBytes: 11}, "hello ", "", "world")
		if err != nil {
			t.Fatal(err)
		}
		s := out.GetImage().GetStatus()
		if s.GetState() != pb.ImageState_IMAGE_READY || s.GetSizeBytes() != 11 || s.GetDigest() != fakeDigest([]byte("hello world")) {
			t.Errorf("status = %v", s)
		}
	})
	t.Run("a spec with another digest makes it fail", func(t *testing.T) {
		got, err := images.UpdateImage(ctx, &pb.UpdateImageRequest{Image: &pb.Image{
			Metadata: &pb.Metadata{Name: "debian"}, Spec: &pb.ImageSpec{Digest: fakeDigest([]byte("abc"))},
		}})
		if err != nil || got.GetStatus().GetState() != pb.ImageState_IMAGE_FAILED || !strings.Contains(got.GetStatus().GetMessage(), "upload it again") {
			t.Errorf("image = %v, %v", got, err)
		}
	})
	t.Run("deleting it frees the disk", func(t *testing.T) {
		if !r.images.has("debian") {
			t.Fatal("no content")
		}
		if _, err := images.DeleteImage(ctx, &pb.DeleteImageRequest{Name: "debian"}); err != nil {
			t.Fatal(err)
		}
		if r.images.has("debian") {
			t.Error("content is still there")
		}
	})
}
