package workflow

import (
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/workflow/plan"
)

// FuzzReport takes up any bytes that an agent could send: what would go into
// the store is within the store's limits, and success only of a run in which
// every step has succeeded or was skipped.
func FuzzReport(f *testing.F) {
	events := func(all ...*pb.StepChange) []byte {
		e := &pb.StepEvents{WorkflowUid: "u", Run: 1}
		for i, c := range all {
			e.Events = append(e.Events,
				&pb.StepEvent{Sequence: uint64(2*i + 1), Event: &pb.StepEvent_Change{Change: c}},
				&pb.StepEvent{Sequence: uint64(2*i + 2), Event: &pb.StepEvent_Log{Log: &pb.LogLine{Step: c.Step, Text: "x"}}})
		}
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(events(&pb.StepChange{Step: "a", State: pb.StepState_STEP_RUNNING, Attempt: 1}, &pb.StepChange{Step: "a", State: pb.StepState_STEP_SUCCEEDED, Attempt: 1,
		Outputs: map[string]*structpb.Value{"stdout": structpb.NewStringValue("hunter2")}}))
	f.Add(events(&pb.StepChange{Step: "a", State: pb.StepState_STEP_SKIPPED}, &pb.StepChange{Step: "r", State: pb.StepState_STEP_RUNNING, Attempt: 1, Leaving: true, NextBoot: "disk"}))
	f.Add(events(&pb.StepChange{Step: "a", State: pb.StepState_STEP_FAILED, Attempt: 1, Error: "x", LastOutput: []string{"y"}}))
	b, err := bolt.Open(filepath.Join(f.TempDir(), "store"), bolt.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { b.Close() })
	db := &resource.DB{Store: b, Now: time.Now, NewUID: func() string { return "u" }}
	c, err := New(Config{DB: db, Now: time.Now, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		f.Fatal(err)
	}
	spec := noops("a", "r")
	spec.Steps[1].Uses = "machine.reboot"
	g, err := plan.NewGraph(spec)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var batch pb.StepEvents
		if proto.Unmarshal(data, &batch) != nil {
			return
		}
		before := workflowFor("w", "t", "m")
		before.Metadata.Uid = "u"
		before.Status = &pb.WorkflowStatus{
			State: pb.WorkflowState_RUNNING, Run: 1, Template: spec, Steps: plan.New(g, 1).Steps(),
			RunTime: timestamppb.Now(), Delivery: &pb.Delivery{BootId: "b1"},
		}
		x := &tx{c: c, f: &flow{name: "w"}, before: before, wf: proto.Clone(before).(*pb.Workflow), now: time.Now(), noted: map[string]bool{}}
		x.f.mask = x.f.mask.with(map[string]*pb.SecretValues{"s": {Data: map[string]string{"k": "hunter2"}}})
		if x.takeUp(t.Context(), &Session{bootID: "b1", machine: "m"}, batch.GetEvents()) != nil {
			return
		}
		if err := x.conclude(t.Context()); err != nil {
			t.Fatal(err)
		}
		trim(x.wf)
		value, err := proto.Marshal(x.wf)
		if err != nil || len(value) > store.MaxValueBytes || len(x.ops) > store.MaxTxnOps-8 {
			t.Fatalf("%d bytes, %d ops, %v", len(value), len(x.ops), err)
		}
		if x.wf.Status.State != pb.WorkflowState_SUCCEEDED {
			return
		}
		for _, s := range x.wf.Status.Steps {
			if s.State != pb.StepState_STEP_SUCCEEDED && s.State != pb.StepState_STEP_SKIPPED {
				t.Fatalf("success was recorded with step %v", s)
			}
		}
	})
}
