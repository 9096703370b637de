package engine

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/workflow/expression"
	"github.com/bedplate/bedplate/workflow/plan"
)

// calls evaluates what the built-in install template gives to its steps about
// disks; a step that is skipped gives nothing.
func calls(t *testing.T, spec *pb.InstanceSpec) map[string]map[string]any {
	t.Helper()
	templates, err := builtinTemplates()
	if err != nil {
		t.Fatal(err)
	}
	install := templates[slices.IndexFunc(templates, func(t *pb.Template) bool { return t.Metadata.Name == "install-image" })]
	compiled, err := expression.Compile(install.Spec)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := expression.InstanceFacts(&pb.Instance{Metadata: &pb.Metadata{Name: "i"}, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	images, err := structpb.NewStruct(map[string]any{"debian": map[string]any{"finish": map[string]any{}}})
	if err != nil {
		t.Fatal(err)
	}
	bound := compiled.Bind(&pb.Plan{
		Images:   images,
		Template: install.Spec, Instance: facts,
		Inputs:  map[string]*structpb.Value{"image": structpb.NewStringValue("debian"), "disk_hint": structpb.NewStringValue("disk.size > 1*GB")},
		Secrets: map[string]*pb.SecretValues{"vault": {Data: map[string]string{"passphrase": "open sesame", "other": "x"}}, "unasked": {Data: map[string]string{"passphrase": "y"}}},
	})
	run := plan.New(compiled.Graph(), 1)
	now := time.Unix(0, 0)
	out := map[string]map[string]any{}
	for _, id := range []string{"layout", "disk", "write", "storage"} {
		yes, err := bound.If(t.Context(), id, run)
		if err != nil {
			t.Fatal(err)
		}
		change := &pb.StepChange{Step: id, State: pb.StepState_STEP_SKIPPED}
		if yes {
			call, err := bound.Call(t.Context(), id, run)
			if err != nil {
				t.Fatal(err)
			}
			out[id] = call.With
			start := run.Start(id)
			if err := run.Apply(start, "b", now); err != nil {
				t.Fatal(err)
			}
			change = &pb.StepChange{Step: id, State: pb.StepState_STEP_SUCCEEDED, Attempt: start.Attempt, Outputs: map[string]*structpb.Value{
				"path": structpb.NewStringValue("/dev/vdb"), "root_disk": structpb.NewStringValue("/dev/vdb"),
			}}
		}
		if err := run.Apply(change, "b", now); err != nil {
			t.Fatal(err)
		}
	}
	delete(out, "write")
	return out
}

func TestInstallImage_Storage(t *testing.T) {
	t.Run("without storage the disk is picked by its hint, and nothing else is done", func(t *testing.T) {
		want := map[string]map[string]any{"disk": {"hint": "disk.size > 1*GB"}}
		if diff := cmp.Diff(want, calls(t, &pb.InstanceSpec{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("with storage the disk is the one that was checked, and keys are those that it names", func(t *testing.T) {
		got := calls(t, &pb.InstanceSpec{Storage: &pb.StorageSpec{
			RootDisk:    `disk.type == "nvme"`,
			Disks:       []*pb.StorageDisk{{Name: "d", Serial: "S"}},
			Encryption:  []*pb.StorageEncryption{{Name: "v", Device: "d", KeySecret: "vault", Pcrs: []uint32{7}}},
			Filesystems: []*pb.StorageFilesystem{{Device: "v", Type: "xfs", Path: "/srv", Options: []string{"noatime"}}},
		}})
		layout := map[string]any{
			"root_disk":   `disk.type == "nvme"`,
			"disks":       []any{map[string]any{"name": "d", "serial": "S"}},
			"encryption":  []any{map[string]any{"name": "v", "device": "d", "key_secret": "vault", "pcrs": []any{float64(7)}}},
			"filesystems": []any{map[string]any{"device": "v", "type": "xfs", "path": "/srv", "options": []any{"noatime"}}},
		}
		keys := map[string]any{"vault": "open sesame"}
		want := map[string]map[string]any{
			"layout":  {"layout": layout, "phase": "check", "root_disk": `disk.type == "nvme"`, "keys": keys},
			"disk":    {"hint": `disk.path == "/dev/vdb"`},
			"storage": {"layout": layout, "root_disk": `disk.path == "/dev/vdb"`, "keys": keys},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("without a root_disk of its own the instance's hint picks the disk", func(t *testing.T) {
		got := calls(t, &pb.InstanceSpec{Storage: &pb.StorageSpec{RootSize: "20GB"}})
		if got["layout"]["root_disk"] != "disk.size > 1*GB" {
			t.Errorf("checked with %v", got["layout"])
		}
	})
}

func TestCheckInstance_StorageHints(t *testing.T) {
	err := checkInstance(&pb.InstanceSpec{Machine: "m", Storage: &pb.StorageSpec{
		RootDisk: "disk.sise > 1", Disks: []*pb.StorageDisk{{Name: "a", Serial: "S"}, {Name: "b", Hint: "disk.size +"}},
	}})
	var fields *resource.FieldErrors
	if !errors.As(err, &fields) {
		t.Fatalf("error is %v, want one of fields", err)
	}
	var paths []string
	for _, e := range fields.Errors {
		paths = append(paths, e.Path)
	}
	if diff := cmp.Diff([]string{"spec.storage.root_disk", "spec.storage.disks[1].hint"}, paths); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
