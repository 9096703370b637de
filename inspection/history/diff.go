package history

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/inspection"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// Diff says what has changed between two records of a machine's inventory,
// each given by its number, or by a time at which it held. An empty `to` is
// the newest, an empty `from` the one before `to`. Of a machine with a single
// record nothing has changed. What is wrong with from and to is a
// *resource.FieldErrors.
func (h *History) Diff(ctx context.Context, m *pb.Machine, from, to string) (*pb.DiffMachineInventoriesResponse, error) {
	all, err := records[*pb.InventoryRecord](ctx, h, inventoryPrefix, m)
	if err != nil {
		return nil, err
	}
	name := m.GetMetadata().GetName()
	if len(all) == 0 {
		return nil, wrong("name", "machine/%s has no inventory on record: it is read when the machine boots the agent", name)
	}
	last := 0
	if to != "" {
		if last, err = find(all, "to", to, name); err != nil {
			return nil, err
		}
	}
	first := min(last+1, len(all)-1)
	if from != "" {
		if first, err = find(all, "from", from, name); err != nil {
			return nil, err
		}
	}
	return &pb.DiffMachineInventoriesResponse{
		From: head(all[first]), To: head(all[last]),
		Differences: inspection.Diff(all[first].GetInventory(), all[last].GetInventory()),
	}, nil
}

// find returns the place of the record that text means.
func find(all []*pb.InventoryRecord, field, text, name string) (int, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		for i, r := range all {
			if r.GetNumber() == n {
				return i, nil
			}
		}
		return 0, wrong(field, "machine/%s has no record %d: it has %d to %d", name, n, all[len(all)-1].GetNumber(), all[0].GetNumber())
	}
	at, err := parseTime(text)
	if err != nil {
		return 0, wrong(field, "%q: neither a record's number nor a time such as 2026-01-02 or 2026-01-02T15:04:05Z", text)
	}
	for i, r := range all {
		if !r.GetTime().AsTime().After(at) {
			return i, nil
		}
	}
	oldest := all[len(all)-1]
	return 0, wrong(field, "nothing is on record of machine/%s at that time: its oldest record is %d, of %s", name, oldest.GetNumber(), oldest.GetTime().AsTime().Format(time.RFC3339))
}

// parseTime reads a time, or the end of a day.
func parseTime(text string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.Add(24*time.Hour - time.Nanosecond), nil
	}
	return time.Parse(time.RFC3339, text)
}

func wrong(path, format string, args ...any) error {
	return &resource.FieldErrors{Errors: []resource.FieldError{{Path: path, Message: fmt.Sprintf(format, args...)}}}
}

// head is a record without its inventory.
func head(r *pb.InventoryRecord) *pb.InventoryRecord {
	out := proto.Clone(r).(*pb.InventoryRecord)
	out.Inventory = nil
	return out
}
