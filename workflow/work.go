package workflow

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// work is a list of things to do that nobody waits for. Each has a key: one
// that waits already is not added again.
type work struct {
	mu    sync.Mutex
	tasks map[string]func(context.Context) error
	order []string
	wake  chan struct{}
}

func newWork() *work {
	return &work{tasks: map[string]func(context.Context) error{}, wake: make(chan struct{}, 1)}
}

func (w *work) add(key string, task func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.tasks[key]; !ok {
		w.order = append(w.order, key)
	}
	w.tasks[key] = task
	w.signalLocked()
}

func (w *work) signalLocked() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *work) take() (string, func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.order) == 0 {
		return "", nil
	}
	key := w.order[0]
	w.order = w.order[1:]
	task := w.tasks[key]
	delete(w.tasks, key)
	if len(w.order) > 0 {
		w.signalLocked()
	}
	return key, task
}

// run carries out tasks until ctx is done. One that fails is tried again.
func (w *work) run(ctx context.Context, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		for key, task := w.take(); task != nil; key, task = w.take() {
			err := task(ctx)
			if err == nil {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			log.Error("deadline or queue not dealt with, trying again", "workflow", key, "err", err)
			if !sleep(ctx, retryDelay) {
				return ctx.Err()
			}
			w.add(key, task)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
