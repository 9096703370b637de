// Package transfer fetches one file over HTTP as a stream that survives cut
// connections: the reader sees one uninterrupted sequence of bytes, while the
// package reconnects underneath with Range and If-Range (RFC 9110 §14, §13.1.5).
// Everything is hashed on the way.
//
//	network --chunks--> SHA-256 --chunks--> Read
//
// Two goroutines belong to a Stream; Close ends both. They hold at most 8 MiB.
//
// A transfer is resumed only when it can be told that the rest belongs to what
// came before: by a digest that the caller will check, or by an unchanged ETag
// or Last-Modified. Otherwise, and when the file has changed, the error is
// ErrChanged and the caller has to start over.
//
// A connection that yields nothing for 30 s is given up and made anew, for as
// long as bytes keep coming; after 10 minutes without a single byte the
// transfer fails. Answers that won't get better (404, a wrong certificate) fail
// at once.
package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrChanged says that the file on the server is not the one that the transfer
// began with, or that this can't be told.
var ErrChanged = errors.New("the file on the server changed during the transfer")

// ErrNoRanges says that the server answers a request for a part with the whole.
var ErrNoRanges = errors.New("the server doesn't answer range requests")

const (
	chunkSize = 512 << 10
	chunks    = 16
)

// Config says what to fetch and how patient to be.
type Config struct {
	// Client makes the requests. Its overall time limit, if any, is not used.
	Client *http.Client
	// URL is http or https.
	URL string
	// Size is the length that the file must have; 0 means whatever the server says.
	Size int64
	// Digest, `sha256:` and 64 digits, is not checked here: given, it only means
	// that the caller will, so that a resumed transfer can be trusted.
	Digest string
	// Stall is how long a connection may yield nothing; 0: 30 s.
	Stall time.Duration
	// GiveUp is how long all tries together may yield nothing; 0: 10 min.
	GiveUp time.Duration
	// Backoff is the wait before the first new try, doubled up to 32 times that; 0: 500 ms.
	Backoff time.Duration
	// Seed spreads the waits of many machines that lost the same server.
	Seed uint64
	// Report is told of each reconnection. It may be nil.
	Report func(message string)
}

// Stream is a file on its way. Read, Sum and Close belong to one goroutine;
// Received, Size and Range may be called from others.
type Stream struct {
	Config
	ctx    context.Context
	cancel context.CancelCauseFunc
	// What the first answer said.
	size     int64 // -1: not known.
	etag     string
	modified string
	// marked: the end of a body is marked although its length isn't known.
	marked bool

	received atomic.Int64
	spread   atomic.Uint64
	failed   atomic.Pointer[error] // The last failure, for the message when patience ends.
	free     chan []byte
	fetched  chan []byte
	hashed   chan []byte
	hash     hash.Hash
	fetchErr error // Set before fetched is closed.
	current  []byte
	whole    []byte // The chunk that current is part of.
	workers  sync.WaitGroup
}

// Open makes the first request and returns once the server has answered it.
func Open(ctx context.Context, c Config) (*Stream, error) {
	s, err := newStream(ctx, c)
	if err != nil {
		return nil, err
	}
	p := s.newPatience()
	body, err := s.retry(s.first)
	if err != nil {
		p.stop()
		s.cancel(nil)
		return nil, err
	}
	s.workers.Go(func() { s.fetch(p, body) })
	s.workers.Go(s.digest)
	return s, nil
}

func newStream(ctx context.Context, c Config) (*Stream, error) {
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	if c.GiveUp == 0 {
		c.GiveUp = 10 * time.Minute
	}
	if c.Backoff == 0 {
		c.Backoff = 500 * time.Millisecond
	}
	if c.Report == nil {
		c.Report = func(string) {}
	}
	if !strings.HasPrefix(c.URL, "http://") && !strings.HasPrefix(c.URL, "https://") {
		return nil, fmt.Errorf("%q is not an http or https URL", c.URL)
	}
	client := http.Client{}
	if c.Client != nil {
		client = *c.Client
	}
	client.Timeout = 0 // It would cut a long transfer.
	c.Client = &client
	s := &Stream{
		Config: c, size: -1, hash: sha256.New(),
		free: make(chan []byte, chunks), fetched: make(chan []byte, chunks), hashed: make(chan []byte, chunks),
	}
	for range chunks {
		s.free <- nil // Memory is taken when it is needed.
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s, nil
}

// Size returns the file's length, or -1 while the server hasn't told.
func (s *Stream) Size() int64 { return s.size }

// Received returns how many bytes of the file have come over the network.
func (s *Stream) Received() int64 { return s.received.Load() }

// Read returns the file's bytes in order, and io.EOF after the last one.
func (s *Stream) Read(p []byte) (int, error) {
	for len(s.current) == 0 {
		if s.whole != nil {
			s.free <- s.whole[:cap(s.whole)]
			s.whole = nil
		}
		c, ok := <-s.hashed
		if !ok {
			return 0, s.fetchErr
		}
		s.whole, s.current = c, c
	}
	n := copy(p, s.current)
	s.current = s.current[n:]
	return n, nil
}

// Sum returns the digest of the whole file. Call it after Read returned io.EOF.
func (s *Stream) Sum() string { return fmt.Sprintf("sha256:%x", s.hash.Sum(nil)) }

// Close ends the transfer and waits until nothing of it is left.
func (s *Stream) Close() error {
	s.cancel(errors.New("the transfer was closed"))
	for range s.hashed { // The hashing goroutine may be waiting to hand on.
	}
	s.workers.Wait()
	return nil
}

// digest hashes chunks in order between network and reader.
func (s *Stream) digest() {
	defer close(s.hashed)
	for c := range s.fetched {
		s.hash.Write(c)
		s.hashed <- c // Holds every chunk there is, so it can't block for good.
	}
}

// fetch moves bodies into chunks, reconnecting as often as it takes.
func (s *Stream) fetch(p *patience, body *conn) {
	defer close(s.fetched)
	defer p.stop()
	for {
		end, err := s.drain(p, body)
		body.Close()
		if end && err == nil {
			err = io.EOF
		}
		if end || Permanent(err) || s.ctx.Err() != nil {
			s.fetchErr = s.cause(err)
			return
		}
		s.note(err)
		s.Report(fmt.Sprintf("connection lost after %d bytes: %v; reconnecting", s.Received(), err))
		if err = s.wait(s.Backoff / 2); err == nil {
			body, err = s.retry(func() (*conn, error) { return s.resume(s.Received()) })
		}
		if err != nil {
			s.fetchErr = err
			return
		}
	}
}

// drain reads one body to its end. It reports true when that is the file's
// end, or when the file can't be what it should.
func (s *Stream) drain(p *patience, body *conn) (bool, error) {
	for {
		if s.size >= 0 && s.Received() >= s.size {
			return true, s.excess(body)
		}
		p.rest() // A slow disk is not a slow network.
		var c []byte
		select {
		case c = <-s.free:
		case <-s.ctx.Done():
			return true, context.Cause(s.ctx)
		}
		p.progress()
		if c == nil {
			c = make([]byte, chunkSize)
		}
		n, err := s.fill(p, body, c)
		if n == 0 {
			s.free <- c
		} else {
			s.fetched <- c[:n]
		}
		switch {
		case errors.Is(err, io.EOF):
			return s.ended()
		case err != nil:
			return false, err
		}
	}
}

// fill reads until a chunk is full or the file's known length is reached.
func (s *Stream) fill(p *patience, body io.Reader, c []byte) (int, error) {
	if s.size >= 0 {
		c = c[:min(int64(len(c)), s.size-s.Received())]
	}
	n := 0
	for n < len(c) {
		m, err := body.Read(c[n:])
		n += m
		if m > 0 {
			s.received.Add(int64(m))
			p.progress()
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// ended judges a body that ended without an error.
func (s *Stream) ended() (bool, error) {
	got := s.Received()
	switch {
	case s.size < 0 || got == s.size:
		return true, nil
	case s.marked:
		return true, &SizeError{URL: s.URL, Want: s.size, Got: got}
	}
	return false, io.ErrUnexpectedEOF
}

// excess fails if a body whose length the server didn't tell goes on after the
// length that the file should have.
func (s *Stream) excess(body *conn) error {
	var one [1]byte
	if body.length >= 0 {
		return nil
	}
	if n, _ := body.Read(one[:]); n > 0 {
		return &SizeError{URL: s.URL, Want: s.size, Got: -1}
	}
	return nil
}
