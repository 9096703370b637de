package console

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// maxBehind is how many bytes a viewer may lag before some are left out.
const maxBehind = 256 << 10

// Chunk is something for a viewer: what the console said, or what the server
// has to say about it.
type Chunk struct {
	Data   []byte
	Notice string
}

// Viewer is one person's view of a console. Next is called by one goroutine,
// Send and Close by any.
type Viewer struct {
	line *line
	once sync.Once

	mu      sync.Mutex
	pending []Chunk
	behind  int
	dropped int
	ended   bool
	ready   chan struct{} // has a token when there is something to read
}

func newViewer(l *line) *Viewer { return &Viewer{line: l, ready: make(chan struct{}, 1)} }

// give adds a chunk. A viewer that doesn't keep up loses the oldest ones.
func (v *Viewer) give(c Chunk) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending = append(v.pending, c)
	v.behind += len(c.Data)
	for v.behind > maxBehind && len(v.pending) > 1 {
		v.behind -= len(v.pending[0].Data)
		v.dropped += len(v.pending[0].Data)
		v.pending = v.pending[1:]
	}
	v.wake()
}

func (v *Viewer) wake() {
	select {
	case v.ready <- struct{}{}:
	default:
	}
}

func (v *Viewer) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	v.wake()
}

// Next returns what comes next. io.EOF means that the machine is gone or the
// server stops.
func (v *Viewer) Next(ctx context.Context) (Chunk, error) {
	for {
		if c, ok, err := v.take(); ok || err != nil {
			return c, err
		}
		select {
		case <-v.ready:
		case <-ctx.Done():
			return Chunk{}, ctx.Err()
		}
	}
}

func (v *Viewer) take() (Chunk, bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.dropped > 0:
		n := v.dropped
		v.dropped = 0
		return Chunk{Notice: fmt.Sprintf("%d bytes were left out: this connection is too slow for the console", n)}, true, nil
	case len(v.pending) > 0:
		c := v.pending[0]
		v.pending = v.pending[1:]
		v.behind = max(0, v.behind-len(c.Data))
		return c, true, nil
	case v.ended:
		return Chunk{}, false, io.EOF
	}
	return Chunk{}, false, nil
}

// Send types something into the console. The error says why it can't be now.
func (v *Viewer) Send(data []byte) error {
	if len(data) > maxInput {
		return fmt.Errorf("%d bytes typed at once, at most %d", len(data), maxInput)
	}
	return v.line.send(data)
}

// Close ends the view.
func (v *Viewer) Close() {
	v.once.Do(func() {
		v.line.leave(v)
		v.line.hub.left()
	})
}
