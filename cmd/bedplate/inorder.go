package main

import (
	"context"
	"sync"

	"github.com/bedplate/bedplate/resource"
)

// inFlight is how many requests of one command wait for their answers at once:
// the server writes those that come together in one go, with one flush of its disk.
const inFlight = 32

// inOrder does something with every item, several at a time where that can't
// change what comes out, and takes the results one by one in the order of the
// items. Of machines up to inFlight are under way at once; everything else is
// done one after the other, as it may refer to what came before. The first
// error that take returns ends it: nothing is begun any more, and what has
// begun is waited for.
func inOrder[T any](ctx context.Context, items []resource.Item, do func(context.Context, resource.Item) (T, error), take func(resource.Item, T, error) error) error {
	for len(items) > 0 {
		n := together(items)
		if err := abreast(ctx, items[:n], do, take); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// together is how many items at the beginning may be done at once.
func together(items []resource.Item) int {
	n := 0
	for n < len(items) && resource.KindOf(items[n].Object).Name == "Machine" {
		n++
	}
	return max(n, 1)
}

// abreast is inOrder for items that may be done at once.
func abreast[T any](ctx context.Context, items []resource.Item, do func(context.Context, resource.Item) (T, error), take func(resource.Item, T, error) error) error {
	type result struct {
		value T
		err   error
	}
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	begun := make([]chan result, 0, len(items))
	begin := func() {
		done, it := make(chan result, 1), items[len(begun)]
		begun = append(begun, done)
		wg.Go(func() {
			v, err := do(ctx, it)
			done <- result{v, err}
		})
	}
	for i, it := range items {
		for len(begun) < min(i+inFlight, len(items)) {
			begin()
		}
		r := <-begun[i]
		if err := take(it, r.value, r.err); err != nil {
			return err
		}
	}
	return nil
}
