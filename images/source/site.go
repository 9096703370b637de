package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// headerTimeout is how long a site may take to begin its answer.
	headerTimeout = 30 * time.Second
	// stallTimeout is how long a transfer may stand still.
	stallTimeout = time.Minute
	maxRedirects = 8
)

// Site fetches over HTTP: from the publisher, or from a mirror of it.
type Site struct {
	client *http.Client
	mirror *url.URL
}

// NewSite returns the source that URLs name; with a mirror, which may be a plain
// http URL, files come from it instead: its path takes the place of the URL's
// scheme and host. transport may be nil: then proxies are those of the environment
// (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).
func NewSite(mirror string, transport http.RoundTripper) (*Site, error) {
	s := &Site{}
	if mirror != "" {
		u, err := url.Parse(mirror)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" {
			return nil, fmt.Errorf("the mirror %q: not an http or https URL", mirror)
		}
		s.mirror = u
	}
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = headerTimeout
		transport = t
	}
	s.client = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	return s, nil
}

// checkRedirect keeps to https once it was https: from there on somebody on the way could change what comes.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("over %d redirects", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return fmt.Errorf("%s redirects to %s: %w", via[0].URL, r.URL.Redacted(), ErrInsecure)
	}
	return nil
}

// Where implements Source.
func (s *Site) Where() string {
	if s.mirror != nil {
		return "the mirror " + s.mirror.Redacted()
	}
	return "the publisher"
}

// Open implements Source.
func (s *Site) Open(ctx context.Context, rawURL string, offset int64, validator string) (*Body, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("%q is no URL: %w", rawURL, err)
	}
	if s.mirror != nil {
		u.Scheme, u.Host = s.mirror.Scheme, s.mirror.Host
		u.Path = strings.TrimSuffix(s.mirror.Path, "/") + u.Path
		u.User = s.mirror.User
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stall := time.AfterFunc(stallTimeout, func() {
		cancel(fmt.Errorf("nothing has come from %s for %s", u.Host, stallTimeout))
	})
	resp, err := s.get(ctx, u, offset, validator)
	if err != nil {
		stall.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		stall.Stop()
		cancel(nil)
		return &Body{ReadCloser: http.NoBody, Offset: offset, Size: offset, Validator: validator}, nil
	}
	body := &Body{ReadCloser: &moving{resp.Body, ctx, cancel, stall}, Size: resp.ContentLength, Validator: validatorOf(resp.Header)}
	if resp.StatusCode == http.StatusPartialContent {
		if body.Offset, body.Size, err = contentRange(resp.Header.Get("Content-Range")); err != nil || body.Offset != offset {
			return nil, errors.Join(fmt.Errorf("%s: Content-Range %q, asked for from %d", u.Redacted(), resp.Header.Get("Content-Range"), offset), body.Close())
		}
	}
	return body, nil
}

func (s *Site) get(ctx context.Context, u *url.URL, offset int64, validator string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "bedplate")
	r.Header.Set("Accept-Encoding", "identity")
	if offset > 0 && validator != "" {
		r.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		r.Header.Set("If-Range", validator)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetching: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return resp, nil
	case http.StatusRequestedRangeNotSatisfiable:
		// There is nothing after what has come already (RFC 9110 §15.5.17).
		if resp.Header.Get("Content-Range") == "bytes */"+strconv.FormatInt(offset, 10) {
			return resp, resp.Body.Close()
		}
		err = errors.New(resp.Status)
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden: // S3 without leave to list says 403 for what isn't there
		err = ErrNotFound
	default:
		err = errors.New(resp.Status)
	}
	return nil, errors.Join(fmt.Errorf("fetching %s: %w", u.Redacted(), err), resp.Body.Close())
}

// validatorOf returns what If-Range may be given: a strong ETag, else the date (RFC 9110 §13.1.5).
func validatorOf(h http.Header) string {
	if e := h.Get("ETag"); e != "" && !strings.HasPrefix(e, "W/") {
		return e
	}
	return h.Get("Last-Modified")
}

// contentRange reads `bytes FIRST-LAST/SIZE` (RFC 9110 §14.4).
func contentRange(s string) (first, size int64, err error) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(rest, "/")
	from, _, ok3 := strings.Cut(span, "-")
	if first, err = strconv.ParseInt(from, 10, 64); err != nil || !ok || !ok2 || !ok3 || first < 0 {
		return 0, 0, errors.New("not a byte range")
	}
	if size, err = strconv.ParseInt(total, 10, 64); err != nil {
		size = -1
	}
	return first, size, nil
}

// moving is a body that has to go on coming.
type moving struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  *time.Timer
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.body.Read(p)
	if n > 0 {
		m.stall.Reset(stallTimeout)
	}
	if cause := context.Cause(m.ctx); err != nil && cause != nil {
		err = cause
	}
	return n, err
}

func (m *moving) Close() error {
	m.stall.Stop()
	err := m.body.Close()
	m.cancel(nil)
	return err
}
