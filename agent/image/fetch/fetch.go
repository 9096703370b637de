// Package fetch gets the index and the chunks of an image from a server, as
// package images/chunk says they are sent. Any number of goroutines may fetch
// side by side; each holds one connection and the chunk it is fetching.
//
// A connection that yields nothing for 30 s is given up. What failed is tried
// again, for as long as any of the fetches makes progress; after 10 minutes
// without a single byte all of them fail. Answers that won't get better (404, a
// wrong certificate) fail at once.
package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bedplate/bedplate/agent/image/transfer"
	"github.com/bedplate/bedplate/images/chunk"
)

// Config says where from, and how patient to be.
type Config struct {
	// Client makes the requests. Its overall time limit, if any, is not used.
	Client *http.Client
	// URL is what /indexes/ and /chunks/ are added to.
	URL string
	// Stall is how long a connection may yield nothing; 0: 30 s.
	Stall time.Duration
	// GiveUp is how long all fetches together may yield nothing; 0: 10 min.
	GiveUp time.Duration
	// Backoff is the wait before the second try, doubled up to 32 times; 0: 500 ms.
	Backoff time.Duration
	// Report is told of each failure that is tried again; may be nil.
	Report func(string)
}

// Server fetches from one server.
type Server struct {
	Config
	begun time.Time
	// moved is when a byte last came, in time since begun.
	moved atomic.Int64
}

// New returns a Server.
func New(c Config) *Server {
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
	c.URL = strings.TrimSuffix(c.URL, "/")
	return &Server{Config: c, begun: time.Now()}
}

// Index fetches and verifies an index.
func (s *Server) Index(ctx context.Context, want chunk.Digest) (*chunk.Index, error) {
	var x *chunk.Index
	err := s.retry(ctx, func() error {
		var b bytes.Buffer
		err := s.get(ctx, "/indexes/"+want.String(), func(r io.Reader, _ int64) error {
			_, err := b.ReadFrom(io.LimitReader(r, int64(chunk.MaxEncoded)+1))
			return err
		})
		if err != nil {
			return err
		}
		x, err = chunk.ReadIndex(&b, want)
		return final(err)
	})
	return x, err
}

// Chunk fetches the stored bytes of a chunk into buf, which has room for them.
// They have the right length; whether they are that chunk, decoding them tells.
func (s *Server) Chunk(ctx context.Context, buf []byte, e chunk.Entry) ([]byte, error) {
	buf = buf[:e.Stored]
	err := s.retry(ctx, func() error {
		return s.get(ctx, "/chunks/"+e.Digest.String(), func(r io.Reader, size int64) error {
			if size >= 0 && size != int64(len(buf)) {
				return final(fmt.Errorf("chunk %s: the server has %d bytes, its index says %d: its copy is damaged; check it with `bedplate image verify`", e.Digest, size, len(buf)))
			}
			if _, err := io.ReadFull(r, buf); err != nil {
				return fmt.Errorf("chunk %s: %w", e.Digest, noEOF(err))
			}
			if n, err := r.Read(make([]byte, 1)); n > 0 || err == nil {
				return final(fmt.Errorf("chunk %s: the server sends more than the %d bytes of its index", e.Digest, len(buf)))
			}
			return nil
		})
	})
	return buf, err
}

// noEOF makes the early end of an answer one that nobody takes for the end of the image.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// get makes one request and hands a good answer's body to read.
func (s *Server) get(ctx context.Context, path string, read func(body io.Reader, size int64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := fmt.Errorf("%s: nothing came for %v", s.URL, s.Stall)
	idle := time.AfterFunc(s.Stall, func() { cancel(stalled) })
	defer idle.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return final(err)
	}
	client := *s.Client
	client.Timeout = 0
	res, err := client.Do(req)
	if err != nil {
		return because(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	if res.StatusCode != http.StatusOK {
		return transfer.NewStatusError(s.URL+path, res)
	}
	moving := readFunc(func(p []byte) (int, error) {
		n, err := res.Body.Read(p)
		if n > 0 {
			idle.Reset(s.Stall)
			s.moved.Store(int64(time.Since(s.begun)))
		}
		return n, err
	})
	return because(ctx, read(moving, res.ContentLength))
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// because prefers the reason why a request was ended to what that broke.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// finalError is a failure that trying again doesn't mend.
type finalError struct{ error }

func (f finalError) Unwrap() error { return f.error }

func final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{err}
}

// maxDoublings bounds the wait between tries at 32 times the first.
const maxDoublings = 5

// retry calls f until it succeeds, fails for good, or patience ends.
func (s *Server) retry(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var f finalError
		if errors.As(err, &f) {
			return f.error
		}
		if transfer.Permanent(err) {
			return err
		}
		if quiet := time.Since(s.begun) - time.Duration(s.moved.Load()); quiet > s.GiveUp {
			return fmt.Errorf("not a byte arrived for %v; the last failure was: %w", s.GiveUp, err)
		}
		wait := s.Backoff << min(n, maxDoublings)
		var status *transfer.StatusError
		if errors.As(err, &status) && status.After > wait {
			wait = status.After
		}
		s.Report(fmt.Sprintf("%v; trying again in %v", err, wait))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
