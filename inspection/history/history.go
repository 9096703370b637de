// Package history keeps what a machine's hardware was, and what its tests
// measured: records beside the Machine resource, at
// /inventory-history/<uid>/<number> and /test-history/<uid>/<number>.
//
// A record is an op that goes into the same Txn as the change of the machine
// that it is of, so that there is neither a change without its record nor a
// record without its change. An inventory is recorded when inspection.Diff
// finds it different, not each time that it is read. The newest records are
// kept, a fixed number of each machine's; they go by the machine's uid, so that
// they stay with it when it gets another name, and are no other machine's that
// gets its name later. Run deletes those of machines that are gone.
//
// All methods may be called by any number of goroutines.
package history

import (
	"context"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/inspection"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

const (
	inventoryPrefix = "/inventory-history/"
	testPrefix      = "/test-history/"

	// Keep is how many records of each sort are kept of a machine.
	Keep = 32
)

// History reads and writes the records of all machines.
type History struct{ db *resource.DB }

// New returns a History on db.
func New(db *resource.DB) *History { return &History{db} }

// numbered is a record before it is written.
type numbered interface {
	*pb.InventoryRecord | *pb.TestRun
	proto.Message
	GetNumber() int64
}

// Ops returns what records the change of a machine from before to after, for
// the Txn that makes it: its inventory if that is another, and the results of
// its tests if they were run. The Txn must have the condition that the machine
// is still as before (resource.Unchanged). Mostly there is nothing to record,
// and nothing is read.
func (h *History) Ops(ctx context.Context, before, after *pb.Machine) ([]store.Op, error) {
	uid := after.GetMetadata().GetUid()
	if uid == "" {
		return nil, nil
	}
	var ops []store.Op
	if was, is := before.GetStatus().GetInventory(), after.GetStatus().GetInventory(); is != nil && was != is {
		more, err := h.inventoryOps(ctx, uid, was, is)
		if err != nil {
			return nil, err
		}
		ops = more
	}
	was, is := before.GetStatus().GetTestTime(), after.GetStatus().GetTestTime()
	if is != nil && !proto.Equal(was, is) {
		more, err := h.testOps(ctx, uid, after)
		if err != nil {
			return nil, err
		}
		ops = append(ops, more...)
	}
	return ops, nil
}

// inventoryOps compares the new inventory with the newest on record: the
// machine's own may have been cleared, so that it is read again.
func (h *History) inventoryOps(ctx context.Context, uid string, was, is *pb.Inventory) ([]store.Op, error) {
	if was != nil && len(inspection.Diff(was, is)) == 0 {
		return nil, nil
	}
	newest := &pb.InventoryRecord{}
	if err := h.newest(ctx, inventoryPrefix, uid, newest); err != nil {
		return nil, err
	}
	var ops []store.Op
	switch {
	case newest.GetNumber() > 0 && len(inspection.Diff(newest.GetInventory(), is)) == 0:
		return nil, nil
	case newest.GetNumber() == 0 && was != nil: // from before there was a history
		newest = &pb.InventoryRecord{Number: 1, Time: readTime(was, h.db), Inventory: was}
		ops = putRecord(inventoryPrefix, uid, newest)
	}
	return append(ops, putRecord(inventoryPrefix, uid, &pb.InventoryRecord{Number: newest.GetNumber() + 1, Time: readTime(is, h.db), Inventory: is})...), nil
}

// readTime is when an inventory was read: by the machine's clock, unless that
// can't be right.
func readTime(inv *pb.Inventory, db *resource.DB) *timestamppb.Timestamp {
	now := timestamppb.New(db.Now())
	if t := inv.GetCollectTime(); t.IsValid() && t.GetSeconds() > 0 && t.AsTime().Before(now.AsTime()) {
		return t
	}
	return now
}

func (h *History) testOps(ctx context.Context, uid string, m *pb.Machine) ([]store.Op, error) {
	newest := &pb.TestRun{}
	if err := h.newest(ctx, testPrefix, uid, newest); err != nil {
		return nil, err
	}
	run := &pb.TestRun{Number: newest.GetNumber() + 1, Time: m.GetStatus().GetTestTime(), Results: m.GetStatus().GetTests()}
	if len(run.Results) > 0 {
		run.Workflow = run.Results[0].GetWorkflow()
	}
	return putRecord(testPrefix, uid, run), nil
}

// putRecord returns the ops that write a record and delete the one that is too
// much. One that no store would take is left out: it must not keep the change
// from being made that it is of.
func putRecord[T numbered](prefix, uid string, r T) []store.Op {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil || len(value) > store.MaxValueBytes {
		return nil
	}
	ops := []store.Op{store.Put(key(prefix, uid, r.GetNumber()), value)}
	if old := r.GetNumber() - Keep; old > 0 {
		ops = append(ops, store.Delete(key(prefix, uid, old)))
	}
	return ops
}

// key sorts a machine's records newest first.
func key(prefix, uid string, number int64) string {
	return fmt.Sprintf("%s%s/%019d", prefix, uid, math.MaxInt64-number)
}

// newest reads a machine's newest record; r stays as it is if there is none.
func (h *History) newest(ctx context.Context, prefix, uid string, r proto.Message) error {
	page, err := h.db.Store.List(ctx, prefix+uid+"/", "", 1)
	if err == nil && len(page.KVs) > 0 {
		err = proto.Unmarshal(page.KVs[0].Value, r)
	}
	if err != nil {
		return fmt.Errorf("reading the history of a machine: %w", err)
	}
	return nil
}

// records returns all records of a machine, newest first.
func records[T numbered](ctx context.Context, h *History, prefix string, m *pb.Machine) ([]T, error) {
	uid := m.GetMetadata().GetUid()
	if uid == "" {
		return nil, nil
	}
	page, err := h.db.Store.List(ctx, prefix+uid+"/", "", 0)
	if err != nil {
		return nil, fmt.Errorf("reading the history of machine/%s: %w", m.GetMetadata().GetName(), err)
	}
	var none T
	out := make([]T, 0, len(page.KVs))
	for _, kv := range page.KVs {
		r := none.ProtoReflect().New().Interface().(T)
		if err := proto.Unmarshal(kv.Value, r); err != nil {
			return nil, fmt.Errorf("decoding %s: %w", kv.Key, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Inventories returns a machine's inventories, newest first, each with what
// is different from the one before it.
func (h *History) Inventories(ctx context.Context, m *pb.Machine) ([]*pb.InventoryRecord, error) {
	all, err := records[*pb.InventoryRecord](ctx, h, inventoryPrefix, m)
	for i := 0; i+1 < len(all); i++ {
		all[i].Changes = inspection.Diff(all[i+1].GetInventory(), all[i].GetInventory())
	}
	return all, err
}

// Tests returns the runs of a machine's tests, newest first.
func (h *History) Tests(ctx context.Context, m *pb.Machine) ([]*pb.TestRun, error) {
	return records[*pb.TestRun](ctx, h, testPrefix, m)
}
