package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// machinesAfterPool are a Pool and n machines.
func machinesAfterPool(n int) []resource.Item {
	items := []resource.Item{{Object: &pb.Pool{Metadata: &pb.Metadata{Name: "p"}}}}
	for i := range n {
		items = append(items, resource.Item{Object: &pb.Machine{Metadata: &pb.Metadata{Name: fmt.Sprintf("m%03d", i)}}})
	}
	return items
}

func TestInOrder(t *testing.T) {
	items := machinesAfterPool(3 * inFlight)
	t.Run("machines are done together, no more than so many at once, and told in order", func(t *testing.T) {
		var now, most atomic.Int64
		full := make(chan struct{})
		var told, want []string
		err := inOrder(t.Context(), items, func(ctx context.Context, it resource.Item) (string, error) {
			name := it.Object.GetMetadata().GetName()
			n := now.Add(1)
			defer now.Add(-1)
			if name == "p" {
				return name, nil
			}
			most.Store(max(most.Load(), n))
			if n == inFlight {
				close(full) // all that may be under way are: nobody else comes before one has gone
			}
			select {
			case <-full:
			case <-ctx.Done():
			}
			return name, nil
		}, func(_ resource.Item, name string, err error) error {
			if name == "p" && now.Load() != 0 {
				t.Error("machines were begun before their pool was done")
			}
			told = append(told, name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			want = append(want, it.Object.GetMetadata().GetName())
		}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := most.Load(); got > inFlight {
			t.Errorf("%d were under way at once, want at most %d", got, inFlight)
		}
	})
	t.Run("an error that ends it begins nothing more", func(t *testing.T) {
		var begun atomic.Int64
		broken := errors.New("the server has gone")
		err := inOrder(t.Context(), items, func(_ context.Context, it resource.Item) (int, error) {
			begun.Add(1)
			if it.Object.GetMetadata().GetName() == "m003" {
				return 0, broken
			}
			return 0, nil
		}, func(_ resource.Item, _ int, err error) error { return err })
		if !errors.Is(err, broken) {
			t.Errorf("error = %v", err)
		}
		if got := begun.Load(); got > 1+3+inFlight {
			t.Errorf("%d were begun", got)
		}
	})
	t.Run("instances are made one after the other", func(t *testing.T) {
		list := []resource.Item{{Object: &pb.Instance{}}, {Object: &pb.Instance{}}}
		if got := together(list); got != 1 {
			t.Errorf("%d at once: which machine each gets would be chance", got)
		}
		if got := together(slices.Concat(items[1:], list)); got != len(items)-1 {
			t.Errorf("%d machines at once, want %d", got, len(items)-1)
		}
	})
}
