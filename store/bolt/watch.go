package bolt

import (
	"context"
	"strings"
	"sync"

	"github.com/bedplate/bedplate/store"
)

// hub keeps the history and the watchers.
type hub struct {
	mu sync.Mutex
	// current is the newest revision that has been published.
	current int64
	// compacted is the newest revision that the history no longer has.
	compacted int64
	history   []store.Batch
	bytes     int
	maxCount  int
	maxBytes  int
	buffer    int
	watchers  map[*watcher]bool
	ended     error
}

// watcher is one Watch. Its channel is written and closed with hub.mu held
// only; one place in it is kept free for the batch that ends it.
type watcher struct {
	prefix string
	from   int64
	ch     chan store.Batch
	stop   func() bool
}

func newHub(opts Options, revision int64) hub {
	return hub{
		current:   revision,
		compacted: revision,
		maxCount:  opts.HistoryBatches,
		maxBytes:  opts.HistoryBytes,
		buffer:    opts.WatchBuffer,
		watchers:  map[*watcher]bool{},
	}
}

func (h *hub) revision() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current
}

// Watch implements store.Store. It returns store.ErrCompacted itself when the
// history has gone past `from` already.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (<-chan store.Batch, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	h := &s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended != nil {
		return nil, h.ended
	}
	if from < h.compacted {
		return nil, store.ErrCompacted
	}
	var missed []store.Batch
	for _, b := range h.history {
		if f, ok := filter(b, prefix); ok && b.Revision > from {
			missed = append(missed, f)
		}
	}
	w := &watcher{prefix: prefix, from: from, ch: make(chan store.Batch, len(missed)+h.buffer+1)}
	for _, b := range missed {
		w.ch <- b
	}
	h.watchers[w] = true
	w.stop = context.AfterFunc(ctx, func() { h.remove(w) })
	return w.ch, nil
}

// remove ends a watch whose context is done.
func (h *hub) remove(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers[w] {
		delete(h.watchers, w)
		close(w.ch)
	}
}

// endLocked ends a watch with an error.
func (h *hub) endLocked(w *watcher, err error) {
	w.stop()
	delete(h.watchers, w)
	w.ch <- store.Batch{Revision: h.current, Err: err}
	close(w.ch)
}

// publish adds a batch to the history and sends it to the watchers. Only the
// writer calls it, so the batches come in order.
func (h *hub) publish(b store.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current = b.Revision
	h.history = append(h.history, b)
	h.bytes += size(b)
	h.trimLocked()
	for w := range h.watchers {
		f, ok := filter(b, w.prefix)
		if !ok || b.Revision <= w.from {
			continue
		}
		if len(w.ch) == cap(w.ch)-1 {
			h.endLocked(w, store.ErrCompacted)
			continue
		}
		w.ch <- f
	}
}

// skipTo tells the hub of a newer revision whose changes it doesn't know: the
// history begins there, and all watches end.
func (h *hub) skipTo(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if revision == h.current {
		return
	}
	h.current, h.compacted = revision, revision
	h.history, h.bytes = nil, 0
	for w := range h.watchers {
		h.endLocked(w, store.ErrCompacted)
	}
}

// trimLocked drops what is over the bounds. The slice is moved only now and
// then, so that a publish costs the same however long the history is.
func (h *hub) trimLocked() {
	drop := 0
	for n := len(h.history); n-drop > h.maxCount || h.bytes > h.maxBytes && drop < n; drop++ {
		h.bytes -= size(h.history[drop])
		h.compacted = h.history[drop].Revision
		h.history[drop] = store.Batch{}
	}
	h.history = h.history[drop:]
}

// end ends all watches, and those to come.
func (h *hub) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = err
	for w := range h.watchers {
		h.endLocked(w, err)
	}
	h.history = nil
}

// filter returns a copy of what of a batch is below prefix.
func filter(b store.Batch, prefix string) (store.Batch, bool) {
	out := store.Batch{Revision: b.Revision}
	for _, c := range b.Changes {
		if !strings.HasPrefix(c.KV.Key, prefix) {
			continue
		}
		if c.Prev != nil {
			c.Prev = append([]byte{}, c.Prev...)
		}
		if c.KV.Value != nil {
			c.KV.Value = append([]byte{}, c.KV.Value...)
		}
		out.Changes = append(out.Changes, c)
	}
	return out, len(out.Changes) > 0
}

// size estimates what a batch takes in memory.
func size(b store.Batch) int {
	n := 64
	for _, c := range b.Changes {
		n += 128 + len(c.KV.Key) + len(c.KV.Value) + len(c.Prev)
	}
	return n
}
