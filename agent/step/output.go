package step

import (
	"bytes"
	"strings"
	"sync"
)

// MaxLine is the longest line that is reported whole; longer ones are cut up.
const MaxLine = 8 << 10

// MaxTail is how much of a program's output is kept for its stdout output.
const MaxTail = 64 << 10

// LineWriter turns what a program prints into lines of a Reporter. A carriage
// return ends a line as well, so that progress bars can be followed. It may be
// written to by several goroutines; Close reports a last line without an end.
type LineWriter struct {
	rep    Reporter
	stream string

	mu   sync.Mutex
	line []byte
	tail []byte // nil unless it is kept
	keep bool
}

// NewLineWriter returns a writer for one stream. With keep, Tail has the last
// MaxTail bytes written.
func NewLineWriter(rep Reporter, stream string, keep bool) *LineWriter {
	return &LineWriter{rep: rep, stream: stream, keep: keep}
}

// Write takes everything.
func (w *LineWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	if w.keep {
		w.tail = append(w.tail, b...)
		if len(w.tail) > 2*MaxTail {
			w.tail = append([]byte(nil), w.tail[len(w.tail)-MaxTail:]...)
		}
	}
	for len(b) > 0 {
		i := bytes.IndexAny(b, "\n\r")
		if room := MaxLine - len(w.line); i > room || (i < 0 && len(b) >= room) {
			w.line = append(w.line, b[:room]...)
			b = b[room:]
			w.flushLocked()
			continue
		}
		if i < 0 {
			w.line = append(w.line, b...)
			break
		}
		w.line = append(w.line, b[:i]...)
		b = b[i+1:]
		if len(w.line) > 0 {
			w.flushLocked()
		}
	}
	return n, nil
}

func (w *LineWriter) flushLocked() {
	w.rep.Log(w.stream, strings.ToValidUTF8(string(w.line), "\uFFFD"))
	w.line = w.line[:0]
}

// Close reports what has no end of line yet.
func (w *LineWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.line) > 0 {
		w.flushLocked()
	}
	return nil
}

// Tail returns the last MaxTail bytes, as valid UTF-8.
func (w *LineWriter) Tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.ToValidUTF8(string(w.tail[max(0, len(w.tail)-MaxTail):]), "\uFFFD")
}
