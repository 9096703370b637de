package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bedplate/bedplate/agent/disk/erase"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/erasure"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

type quiet struct{}

func (quiet) Log(string, string)                    {}
func (quiet) Progress(int64, int64, string, string) {}

// TestErasureContract holds what the agent reports of an erasure against what
// the record takes: both sides know the outputs by name only.
func TestErasureContract(t *testing.T) {
	t.Chdir(t.TempDir())
	const size = 16 << 20
	if err := os.WriteFile("disk", bytes.Repeat([]byte{0xa5}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := erase.New(erase.Config{Disks: func(context.Context) ([]*pb.Disk, error) { return nil, nil }, Random: rand.Reader, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	run := func(with map[string]any) (*erasure.Record, error) {
		t.Helper()
		state := pb.StepState_STEP_SUCCEEDED
		res, err := s.Steps()["disk.erase"].Execute(t.Context(), step.Request{With: with}, quiet{})
		if err != nil {
			t.Log(err)
			state = pb.StepState_STEP_FAILED
		}
		out, err := structpb.NewStruct(res.Outputs)
		if err != nil {
			t.Fatal(err)
		}
		m := &pb.Machine{Metadata: &pb.Metadata{Name: "m"}, Status: &pb.MachineStatus{Inventory: &pb.Inventory{Disks: []*pb.Disk{{Name: "disk", SizeBytes: size}}}}}
		return erasure.FromWorkflow(m, &pb.Workflow{
			Spec:   &pb.WorkflowSpec{Machine: "m"},
			Status: &pb.WorkflowStatus{State: pb.WorkflowState_SUCCEEDED, Steps: []*pb.StepStatus{{Id: "erase", Uses: "disk.erase", State: state, Outputs: out.GetFields()}}},
		}, "alice", time.Now())
	}
	for _, with := range []map[string]any{{}, {"method": "overwrite", "verify": "full", "pattern": "random"}, {"method": "overwrite"}} {
		with["disk"] = "./disk"
		r, err := run(with)
		if err != nil {
			t.Errorf("%v: %v", with, err)
			continue
		}
		d := r.Devices[0]
		if d.SizeBytes != size || d.Verification.BytesRead == 0 || len(d.Verification.Seed) != 16 || d.Start.IsZero() || d.Level != erasure.Clear {
			t.Errorf("%v: %+v", with, d)
		}
	}
	for _, with := range []map[string]any{{"verify": "none", "method": "overwrite"}, {"method": "nvme-format-user"}} {
		with["disk"] = "./disk"
		var not *erasure.NotErased
		if r, err := run(with); !errors.As(err, &not) || r == nil {
			t.Errorf("%v: %v", with, err)
		}
	}
}
