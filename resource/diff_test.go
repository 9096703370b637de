package resource

import (
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func TestDiff(t *testing.T) {
	before := newMachine("a", map[string]string{"rack": "r1", "old": "x"})
	before.Spec.Interfaces = []*pb.Interface{{Mac: "52:54:00:77:00:01"}, {Mac: "52:54:00:77:00:02", DisableDhcp: true}}
	before.Spec.Hostname = "a"
	before.Status = &pb.MachineStatus{State: pb.MachineState_ACTIVE}
	after := newMachine("a", map[string]string{"rack": "r2", "a b": ""})
	after.Spec.Interfaces = []*pb.Interface{{Mac: "52:54:00:77:00:03", Address: "10.77.0.3/24"}}
	after.Spec.Maintenance = true
	same(t, "changes", Diff(before, after), []FieldChange{
		{Path: `metadata.labels.old`, Old: "x", Removed: true},
		{Path: `metadata.labels["a b"]`, Added: true},
		{Path: "metadata.labels.rack", Old: "r1", New: "r2"},
		{Path: "spec.interfaces[0].mac", Old: "52:54:00:77:00:01", New: "52:54:00:77:00:03"},
		{Path: "spec.interfaces[1].mac", Old: "52:54:00:77:00:02", Removed: true},
		{Path: "spec.interfaces[1].disable_dhcp", Old: "true", Removed: true},
		{Path: "spec.hostname", Old: "a", Removed: true},
		{Path: "spec.interfaces[0].address", New: "10.77.0.3/24", Added: true},
		{Path: "spec.maintenance", New: "true", Added: true},
	})
	if got := Diff(before, before); got != nil {
		t.Errorf("with itself: %v", got)
	}
	tmpl := &pb.Template{Spec: &pb.TemplateSpec{Steps: []*pb.Step{{Uses: "x", With: map[string]*structpb.Value{"n": structpb.NewNumberValue(3)}}}}}
	same(t, "a new one", Diff(nil, tmpl), []FieldChange{
		{Path: "spec.steps[0].uses", New: "x", Added: true},
		{Path: "spec.steps[0].with.n", New: "3", Added: true},
	})
}
