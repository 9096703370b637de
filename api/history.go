package api

import (
	"context"
	"strconv"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// MachineHistory is what a machine's hardware was, and what its tests
// measured. What is wrong with a request is a *resource.FieldErrors.
type MachineHistory interface {
	// Inventories returns all records, newest first, with their changes.
	Inventories(ctx context.Context, m *pb.Machine) ([]*pb.InventoryRecord, error)
	// Diff compares two records, each given by its number or a time.
	Diff(ctx context.Context, m *pb.Machine, from, to string) (*pb.DiffMachineInventoriesResponse, error)
	// Tests returns all runs, newest first.
	Tests(ctx context.Context, m *pb.Machine) ([]*pb.TestRun, error)
}

// maxRecords is how many records a page has at most.
const maxRecords = 32

// ListMachineInventories implements pb.MachineServiceServer.
func (a *machineAPI) ListMachineInventories(ctx context.Context, r *pb.ListMachineInventoriesRequest) (*pb.ListMachineInventoriesResponse, error) {
	m, err := a.recorded(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	all, err := a.s.cfg.History.Inventories(ctx, m)
	if err != nil {
		return nil, err
	}
	if !r.GetFull() {
		for _, rec := range all {
			rec.Inventory = nil
		}
	}
	items, next, err := pageOf(all, r, "inventories?"+m.GetMetadata().GetUid())
	return &pb.ListMachineInventoriesResponse{Records: items, NextPageToken: next}, err
}

// DiffMachineInventories implements pb.MachineServiceServer.
func (a *machineAPI) DiffMachineInventories(ctx context.Context, r *pb.DiffMachineInventoriesRequest) (*pb.DiffMachineInventoriesResponse, error) {
	m, err := a.recorded(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return a.s.cfg.History.Diff(ctx, m, r.GetFrom(), r.GetTo())
}

// ListMachineTests implements pb.MachineServiceServer.
func (a *machineAPI) ListMachineTests(ctx context.Context, r *pb.ListMachineTestsRequest) (*pb.ListMachineTestsResponse, error) {
	m, err := a.recorded(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	all, err := a.s.cfg.History.Tests(ctx, m)
	if err != nil {
		return nil, err
	}
	items, next, err := pageOf(all, r, "tests?"+m.GetMetadata().GetUid())
	return &pb.ListMachineTestsResponse{Runs: items, NextPageToken: next}, err
}

// recorded returns a machine whose history is asked for.
func (a *machineAPI) recorded(ctx context.Context, name string) (*pb.Machine, error) {
	if a.s.cfg.History == nil {
		return nil, unavailable("a history of machines")
	}
	return a.get(ctx, name)
}

// numbered is a record of those that are counted, newest first.
type numbered interface {
	proto.Message
	GetNumber() int64
}

// pageRequest is what requests for records have.
type pageRequest interface {
	GetPageSize() int32
	GetPageToken() string
}

// pageOf returns the page that was asked for of all records, newest first. The
// token has the number of the last record before.
func pageOf[T numbered](all []T, r pageRequest, list string) (items []T, next string, err error) {
	token, err := parsePageToken(r.GetPageToken(), list)
	if err != nil {
		return nil, "", err
	}
	size, err := pageSize(r.GetPageSize())
	if err != nil {
		return nil, "", err
	}
	size = min(size, maxRecords)
	bytes := 0
	for _, rec := range all {
		number := strconv.FormatInt(rec.GetNumber(), 10)
		if last, err := strconv.ParseInt(token.After, 10, 64); err == nil && rec.GetNumber() >= last {
			continue
		}
		bytes += proto.Size(rec)
		if len(items) > 0 && (len(items) == size || bytes > maxPageBytes) {
			return items, next, nil
		}
		items, next = append(items, rec), pageToken{List: list, After: number}.encode()
	}
	return items, "", nil
}
