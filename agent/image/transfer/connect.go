package transfer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// StatusError is an answer other than the file.
type StatusError struct {
	URL    string
	Status int
	// After is how long the server asks to be left alone; 0: it doesn't say.
	After time.Duration
}

// Error names the URL and what the server said.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s: server answers %d %s", e.URL, e.Status, http.StatusText(e.Status))
	switch e.Status {
	case http.StatusNotFound, http.StatusGone:
		s += ": there is no such file; check the image's url, or import it again"
	case http.StatusUnauthorized, http.StatusForbidden:
		s += ": this machine may not have it"
	}
	return s
}

// SizeError is a file that hasn't got the length it should have.
type SizeError struct {
	URL  string
	Want int64
	// Got is -1 for a file that goes on after Want bytes.
	Got int64
}

// Error names both lengths.
func (e *SizeError) Error() string {
	if e.Got < 0 {
		return fmt.Sprintf("%s: expected %d bytes, got more", e.URL, e.Want)
	}
	return fmt.Sprintf("%s: expected %d bytes, got %d", e.URL, e.Want, e.Got)
}

// errStalled is the cause of giving up one connection.
var errStalled = errors.New("connection stalled")

// Permanent reports whether trying again can't help.
func Permanent(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Status < 500 && status.Status != http.StatusRequestTimeout &&
			status.Status != http.StatusTooEarly && status.Status != http.StatusTooManyRequests
	}
	var size *SizeError
	var endless *EndlessError
	var cert *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	return errors.As(err, &size) || errors.As(err, &endless) || errors.As(err, &cert) || errors.As(err, &authority) || errors.As(err, &host) ||
		errors.Is(err, ErrChanged) || errors.Is(err, ErrNoRanges)
}

// conn is the body of one answer, given up when it yields nothing for a while.
type conn struct {
	*http.Response
	length int64
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func (c *conn) Read(p []byte) (int, error) {
	c.timer.Reset(c.stall)
	n, err := c.Body.Read(p)
	c.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) && c.ctx.Err() != nil {
		err = context.Cause(c.ctx)
	}
	return n, err
}

// Close lets the connection go without reading the rest.
func (c *conn) Close() {
	c.timer.Stop()
	c.cancel(nil)
	_ = c.Body.Close() // Only the body of an answer that nobody reads any more.
}

// get asks for the file from off on; for n bytes of it if n is not negative.
func (s *Stream) get(off, n int64) (*conn, error) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	c := &conn{ctx: ctx, cancel: cancel, stall: s.Stall}
	c.timer = time.AfterFunc(s.Stall, func() { cancel(fmt.Errorf("no byte for %v: %w", s.Stall, errStalled)) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("making request: %w", err)
	}
	// The file as it is, also from servers that would compress it on the way.
	req.Header.Set("Accept-Encoding", "identity")
	if n >= 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	} else if off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
		if v := s.validator(); v != "" {
			req.Header.Set("If-Range", v)
		}
	}
	c.Response, err = s.Client.Do(req)
	c.timer.Stop()
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // It repeats method and URL.
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		cancel(nil)
		return nil, fmt.Errorf("fetching %s: %w", s.URL, err)
	}
	c.length = c.ContentLength
	return c, nil
}

// validator is what If-Range may carry: a strong ETag, else a date.
func (s *Stream) validator() string {
	if s.etag != "" && !strings.HasPrefix(s.etag, "W/") {
		return s.etag
	}
	return s.modified
}

// first makes the request that tells what the file is.
func (s *Stream) first() (*conn, error) {
	c, err := s.get(0, -1)
	if err != nil {
		return nil, err
	}
	if err := s.learn(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (s *Stream) learn(c *conn) error {
	if c.StatusCode != http.StatusOK {
		return NewStatusError(s.URL, c.Response)
	}
	s.etag, s.modified = c.Header.Get("Etag"), c.Header.Get("Last-Modified")
	s.size = c.ContentLength
	s.marked = c.ProtoMajor >= 2 || slices.Contains(c.TransferEncoding, "chunked")
	if s.Config.Size > 0 {
		if s.size >= 0 && s.size != s.Config.Size {
			return &SizeError{URL: s.URL, Want: s.Config.Size, Got: s.size}
		}
		s.size = s.Config.Size
	}
	if s.size < 0 && !s.marked && s.Digest == "" {
		return &EndlessError{URL: s.URL}
	}
	return nil
}

// EndlessError is a server that gives no means to tell a whole file from a
// cut one.
type EndlessError struct{ URL string }

// Error says what to do about it.
func (e *EndlessError) Error() string {
	return e.URL + ": the server tells neither the file's length nor marks its end, so that a cut file would look whole: give a digest"
}

// resume asks for the rest of the file.
func (s *Stream) resume(off int64) (*conn, error) {
	if off == 0 {
		return s.again(0)
	}
	if s.Digest == "" && s.validator() == "" {
		return nil, fmt.Errorf("resuming %s at %d: the server gives no ETag to tell: %w", s.URL, off, ErrChanged)
	}
	return s.again(off)
}

func (s *Stream) again(off int64) (*conn, error) {
	c, err := s.get(off, -1)
	if err != nil {
		return nil, err
	}
	switch {
	case c.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		err = fmt.Errorf("resuming %s at %d: the file is shorter now: %w", s.URL, off, ErrChanged)
	case c.StatusCode == http.StatusPartialContent && off > 0:
		err = s.checkPart(c, off)
	case c.StatusCode == http.StatusOK:
		err = s.skip(c, off)
	default:
		err = NewStatusError(s.URL, c.Response)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// same fails if an answer's validators are not those of the first answer.
func (s *Stream) same(c *conn) error {
	if etag := c.Header.Get("Etag"); etag != s.etag {
		return fmt.Errorf("%s: ETag was %q and is %q: %w", s.URL, s.etag, etag, ErrChanged)
	}
	if m := c.Header.Get("Last-Modified"); s.etag == "" && m != s.modified {
		return fmt.Errorf("%s: Last-Modified was %q and is %q: %w", s.URL, s.modified, m, ErrChanged)
	}
	return nil
}

func (s *Stream) checkPart(c *conn, off int64) error {
	start, total, err := contentRange(c.Header.Get("Content-Range"))
	if err != nil {
		return fmt.Errorf("%s: %w", s.URL, err)
	}
	if start != off {
		return fmt.Errorf("%s: asked for bytes from %d, the server sends them from %d: %w", s.URL, off, start, ErrChanged)
	}
	if s.size >= 0 && total >= 0 && total != s.size {
		return fmt.Errorf("%s: the file had %d bytes and has %d: %w", s.URL, s.size, total, ErrChanged)
	}
	return s.same(c)
}

// skip reads past what has come already, when the server sends the whole file
// again.
func (s *Stream) skip(c *conn, off int64) error {
	if err := s.same(c); err != nil {
		return err
	}
	if c.ContentLength >= 0 && s.size >= 0 && c.ContentLength != s.size {
		return fmt.Errorf("%s: the file had %d bytes and has %d: %w", s.URL, s.size, c.ContentLength, ErrChanged)
	}
	if _, err := io.CopyN(io.Discard, c, off); err != nil {
		return fmt.Errorf("reading %s again up to byte %d: %w", s.URL, off, err)
	}
	return nil
}

// Range fetches n bytes at off, beside the stream. It is for small parts that
// have to be known before their turn comes.
func (s *Stream) Range(off, n int64) ([]byte, error) {
	if s.size >= 0 && (off < 0 || n < 0 || off > s.size || n > s.size-off) {
		return nil, fmt.Errorf("bytes %d to %d are beyond the end of %s, which has %d", off, off+n-1, s.URL, s.size)
	}
	b := make([]byte, n)
	got := int64(0)
	p := s.newPatience()
	defer p.stop()
	for got < n {
		c, err := s.retry(func() (*conn, error) { return s.part(off+got, n-got) })
		if err != nil {
			return nil, err
		}
		for err == nil && got < n {
			var m int
			m, err = c.Read(b[got:])
			if got += int64(m); m > 0 {
				p.progress()
			}
		}
		c.Close()
		if got < n {
			s.note(err)
			if err := s.wait(s.Backoff / 2); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

func (s *Stream) part(off, n int64) (*conn, error) {
	c, err := s.get(off, n)
	if err != nil {
		return nil, err
	}
	switch c.StatusCode {
	case http.StatusPartialContent:
		err = s.checkPart(c, off)
	case http.StatusOK:
		err = fmt.Errorf("%s: %w", s.URL, ErrNoRanges)
	case http.StatusRequestedRangeNotSatisfiable:
		err = fmt.Errorf("%s: bytes %d to %d are beyond its end: %w", s.URL, off, off+n-1, ErrChanged)
	default:
		err = NewStatusError(s.URL, c.Response)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// NewStatusError is what an answer other than the one that was wanted says.
func NewStatusError(url string, r *http.Response) *StatusError {
	e := &StatusError{URL: url, Status: r.StatusCode}
	if n, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil && n > 0 {
		e.After = time.Duration(min(n, 60)) * time.Second
	}
	return e
}

// contentRange reads `bytes 5-9/20`; total is -1 for `*`.
func contentRange(s string) (start, total int64, err error) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, all, slash := strings.Cut(rest, "/")
	from, _, dash := strings.Cut(span, "-")
	if ok && slash && dash {
		start, err = strconv.ParseInt(from, 10, 64)
		total = -1
		if err == nil && all != "*" {
			total, err = strconv.ParseInt(all, 10, 64)
		}
		if err == nil && start >= 0 && total >= -1 {
			return start, total, nil
		}
	}
	return 0, 0, fmt.Errorf("the server's Content-Range %q makes no sense", s)
}
