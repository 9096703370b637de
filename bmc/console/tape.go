package console

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// tape is a recording in two files, of which the older is dropped when the
// newer is half of what may be kept.
type tape struct {
	path string
	half int64

	mu         sync.Mutex
	file       *os.File
	size       int64
	complained bool
	removed    bool
}

func newTape(path string, keep int64) *tape { return &tape{path: path + ".log", half: max(keep/2, 1)} }

func (t *tape) older() string { return t.path + ".1" }

// write appends to the recording.
func (t *tape) write(data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(data) > 0 && !t.removed {
		if err := t.openLocked(); err != nil {
			return err
		}
		n := min(int64(len(data)), t.half-t.size)
		if n <= 0 {
			if err := t.turnLocked(); err != nil {
				return err
			}
			continue
		}
		written, err := t.file.Write(data[:n])
		t.size += int64(written)
		if err != nil {
			return fmt.Errorf("writing the recording of a console: %w", err)
		}
		data = data[n:]
	}
	return nil
}

func (t *tape) openLocked() error {
	if t.file != nil {
		return nil
	}
	f, err := os.OpenFile(t.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the recording of a console: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	t.file, t.size = f, info.Size()
	return nil
}

// turnLocked begins a new file.
func (t *tape) turnLocked() error {
	t.closeLocked()
	if err := os.Rename(t.path, t.older()); err != nil {
		return fmt.Errorf("turning the recording of a console: %w", err)
	}
	return nil
}

func (t *tape) closeLocked() {
	if t.file != nil {
		_ = t.file.Close() // recordings are for people: nothing waits for their being durable
		t.file, t.size = nil, 0
	}
}

func (t *tape) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked()
}

// last returns the last n bytes that were recorded.
func (t *tape) last(n int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	newer, err := readLast(t.path, n)
	if err != nil || len(newer) >= n {
		return newer, err
	}
	older, err := readLast(t.older(), n-len(newer))
	return append(older, newer...), err
}

// readLast returns the last n bytes of a file, none if there is no such file.
func readLast(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-int64(n))
	return io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
}

// remove deletes the recording.
func (t *tape) remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked()
	t.removed = true
	for _, path := range []string{t.path, t.older()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("deleting the recording of a console: %w", err)
		}
	}
	return nil
}

// complain reports whether an error should be logged: the first one.
func (t *tape) complain() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.complained
	t.complained = true
	return first
}
