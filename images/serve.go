package images

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/bedplate/bedplate/images/chunk"
)

// knows reports whether there is an index with that digest.
func (c *chunks) knows(d chunk.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.indexes[d]
	return ok
}

// serveChunk answers with a chunk as it is stored; see package chunk.
func (s *Store) serveChunk(w http.ResponseWriter, r *http.Request, name string) {
	d, err := chunk.ParseDigest(name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f, err := s.chunks.open(d)
	if err != nil {
		s.refuse(w, name, err)
		return
	}
	defer f.Close()
	s.metrics.chunks.Inc()
	s.metrics.sent.Add(float64(sendFile(w, r, f, d)))
}

// serveIndex answers with an index as it is stored.
func (s *Store) serveIndex(w http.ResponseWriter, r *http.Request, name string, seen Observer) {
	d, err := chunk.ParseDigest(name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !s.chunks.knows(d) {
		s.refuse(w, name, fmt.Errorf("index %s: %w", d, ErrNotFound))
		return
	}
	f, err := os.Open(s.chunks.indexPath(d))
	if err != nil {
		s.refuse(w, name, err)
		return
	}
	defer f.Close()
	s.chunks.asked(d)
	observe(r, name, seen)
	sendFile(w, r, f, d)
}

func (s *Store) refuse(w http.ResponseWriter, name string, err error) {
	code := http.StatusInternalServerError
	if errors.Is(err, ErrNotFound) {
		code = http.StatusNotFound
	}
	s.log.Warn("serving an image", "image", name, "err", err)
	http.Error(w, err.Error(), code)
}

// sendFile sends a whole file that never changes, and returns its length.
func sendFile(w http.ResponseWriter, r *http.Request, f *os.File, d chunk.Digest) int64 {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("ETag", strconv.Quote(d.String()))
	http.ServeContent(w, r, "", time.Time{}, f)
	info, err := f.Stat()
	if err != nil || r.Method != http.MethodGet {
		return 0
	}
	return info.Size()
}

// serveDisk answers with the disk itself, zeros and all, for whoever knows
// nothing of chunks.
func (s *Store) serveDisk(w http.ResponseWriter, r *http.Request, name string, d chunk.Digest, seen Observer) {
	disk, err := s.Disk(d.String())
	if err != nil {
		s.refuse(w, name, err)
		return
	}
	defer disk.Close() // Always nil.
	observe(r, name, seen)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", strconv.Quote(d.String()))
	s.metrics.served.Inc()
	http.ServeContent(w, r, "", time.Time{}, disk)
}

// Disk is an image in chunks, read as the disk that it is. It belongs to one goroutine.
type Disk struct {
	c       *chunks
	x       *chunk.Index
	decoder *chunk.Decoder
	at      int64
	// cur is the piece at place; nil: zeros.
	place int64
	cur   []byte
	plain []byte
	next  int // Entry that is looked at first.
}

// Disk opens the image whose index has that digest. ErrNotFound.
func (s *Store) Disk(index string) (*Disk, error) {
	d, err := chunk.ParseDigest(index)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrNotFound)
	}
	x, err := s.chunks.index(d)
	if err != nil {
		return nil, err
	}
	s.chunks.asked(d)
	decoder, err := chunk.NewDecoder(1)
	if err != nil {
		return nil, err
	}
	return &Disk{c: s.chunks, x: x, decoder: decoder, place: -1, plain: make([]byte, chunk.Size)}, nil
}

// Close frees the decoder.
func (d *Disk) Close() error {
	d.decoder.Close()
	return nil
}

// Seek implements io.Seeker.
func (d *Disk) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += d.at
	case io.SeekEnd:
		offset += d.x.Size
	}
	if offset < 0 {
		return 0, errors.New("seeking before the beginning of a disk")
	}
	d.at = offset
	return offset, nil
}

// Read implements io.Reader. Every chunk is verified.
func (d *Disk) Read(p []byte) (int, error) {
	if d.at >= d.x.Size {
		return 0, io.EOF
	}
	place, in := d.at/chunk.Size, d.at%chunk.Size
	if err := d.load(place); err != nil {
		return 0, err
	}
	n := int(min(int64(len(p)), chunk.Size-in, d.x.Size-d.at))
	if d.cur == nil {
		clear(p[:n])
	} else {
		n = copy(p[:n], d.cur[in:])
	}
	d.at += int64(n)
	return n, nil
}

// load makes cur the piece at place.
func (d *Disk) load(place int64) error {
	if d.place == place {
		return nil
	}
	if d.next > 0 && int64(d.x.Entries[d.next-1].Place) >= place {
		d.next = 0
	}
	for d.next < len(d.x.Entries) && int64(d.x.Entries[d.next].Place) < place {
		d.next++
	}
	d.cur = nil
	if d.next < len(d.x.Entries) && int64(d.x.Entries[d.next].Place) == place {
		e := d.x.Entries[d.next]
		plain := d.plain[:d.x.Length(e)]
		if err := d.c.read(e, plain, d.decoder); err != nil {
			return err
		}
		d.cur = plain
	}
	d.place = place
	return nil
}

// read reads a chunk from disk and verifies it.
func (c *chunks) read(e chunk.Entry, plain []byte, decoder *chunk.Decoder) error {
	f, err := c.open(e.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	stored := make([]byte, e.Stored)
	if _, err := io.ReadFull(f, stored); err != nil {
		return fmt.Errorf("chunk %s: %w: %w", e.Digest, err, chunk.ErrDigest)
	}
	if n, _ := f.Read(make([]byte, 1)); n > 0 {
		return fmt.Errorf("chunk %s: its file is longer than %d bytes: %w", e.Digest, e.Stored, chunk.ErrDigest)
	}
	return decoder.Decode(plain, stored, e.Digest)
}
