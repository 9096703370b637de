package convert

import (
	"bytes"
	"context"
	"testing"

	"github.com/bedplate/bedplate/images/chunk"
)

// disk is a Sink that puts the disk together again.
type disk struct {
	t    *testing.T
	b    []byte
	out  int // Buffers that have not come back.
	puts int
}

func (d *disk) Buffer() ([]byte, error) {
	d.out++
	b := make([]byte, chunk.Size)
	for i := range b {
		b[i] = 0xee // What was in it before must not shine through.
	}
	return b, nil
}

func (d *disk) Release([]byte) { d.out-- }

func (d *disk) Put(place uint32, b []byte) error {
	if chunk.IsZero(b) {
		d.t.Errorf("piece %d is all zeros", place)
	}
	d.puts++
	d.out--
	if end := int(place)*chunk.Size + len(b); end > len(d.b) {
		d.b = append(d.b, make([]byte, end-len(d.b))...)
	}
	copy(d.b[int(place)*chunk.Size:], b)
	return nil
}

// memory is a Spool.
type memory struct{ bytes.Buffer }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.Bytes()).ReadAt(p, off)
}

// read runs a conversion of a file's content.
func read(t *testing.T, file []byte, c Config) (*disk, Result, error) {
	t.Helper()
	if c.MaxDisk == 0 {
		c.MaxDisk = 1 << 30
	}
	c.Spool = func() (Spool, error) { return &memory{}, nil }
	d := &disk{t: t}
	res, err := Run(context.Background(), c, bytes.NewReader(file), d)
	if d.out != 0 {
		t.Errorf("%d buffers were not given back", d.out)
	}
	if err == nil {
		if int64(len(d.b)) > res.Size {
			t.Errorf("pieces up to %d of a disk of %d bytes", len(d.b), res.Size)
		}
		d.b = append(d.b, make([]byte, res.Size-int64(len(d.b)))...)
	}
	return d, res, err
}
