package redfish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/bedplate/bedplate/bmc"
)

// The bounds of requests.
const (
	// MaxBody bounds one answer: a large event log or inventory is some
	// megabytes.
	MaxBody = 16 << 20
	// RequestTimeout bounds one request but an upload. BMCs are slow computers:
	// a collection may take them many seconds.
	RequestTimeout = 30 * time.Second
	// slowRequest is how long a request must have taken for its end by the
	// caller's deadline to be the BMC's fault.
	slowRequest = 5 * time.Second
)

// errBodyTooLarge is what reading a larger answer than MaxBody ends with.
var errBodyTooLarge = fmt.Errorf("answer is larger than %d bytes", MaxBody)

// Transport sends requests to one BMC as a logged-in user. Any client that speaks
// Redfish can be given it: it puts its own session in place of what
// authentication a request has. It may be used by several goroutines.
type Transport struct {
	base   *http.Transport
	origin *url.URL
	target bmc.Target
	seen   *bmc.Seen
	now    func() time.Time

	mu       sync.Mutex
	sessions string // path of the collection of sessions
	token    string
	session  string // path of the session
	basic    bool
}

// newTransport returns a transport that isn't logged in.
func newTransport(t bmc.Target, now func() time.Time) (*Transport, error) {
	origin, err := originOf(t)
	if err != nil {
		return nil, err
	}
	config, seen, err := t.ClientTLS(now)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &Transport{
		origin: origin,
		target: t,
		seen:   seen,
		now:    now,
		base: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  RequestTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost:        2,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        time.Minute,
		},
		sessions: "/redfish/v1/SessionService/Sessions",
	}, nil
}

// originOf returns scheme, host and port of a target.
func originOf(t bmc.Target) (*url.URL, error) {
	scheme, def := "https", uint16(443)
	if t.TLS.Plaintext {
		scheme, def = "http", 80
	} else if len(t.Address) > 7 && t.Address[:7] == "http://" {
		return nil, fmt.Errorf("BMC address %s asks for HTTP without TLS, which would show the password to anyone on the way: leave http:// out", t.Address)
	}
	host, port, err := t.HostPort(def)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}, nil
}

// RoundTrip sends one request as the session's user, after a new login where the
// session has ended. It refuses to send anything to anyone but the BMC.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != t.origin.Scheme || req.URL.Host != t.origin.Host || req.URL.User != nil {
		return nil, fmt.Errorf("BMC %s sends its client to %s, which is refused", t.origin.Host, req.URL.Redacted())
	}
	token, basic := t.credentials()
	resp, err := t.send(req, token, basic)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || token == "" {
		return resp, err
	}
	drain(resp)
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return nil, fmt.Errorf("%w: it dropped the session before an upload", bmc.ErrUnreachable)
	}
	if err := t.login(req.Context(), token); err != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	token, basic = t.credentials()
	return t.send(again, token, basic)
}

func (t *Transport) credentials() (token string, basic bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token, t.basic
}

// send sends req with the credentials given, within RequestTimeout unless it
// is an upload, and bounds the answer.
func (t *Transport) send(req *http.Request, token string, basic bool) (*http.Response, error) {
	ctx, cancel := req.Context(), context.CancelFunc(func() {})
	if !isUpload(ctx) && !isStream(ctx) {
		ctx, cancel = context.WithTimeoutCause(ctx, RequestTimeout, errRequestTimeout)
	}
	req = req.Clone(ctx)
	req.Close = false
	req.Header.Del("Authorization")
	req.Header.Del("X-Auth-Token")
	req.Header.Set("Accept", "application/json")
	if isStream(ctx) {
		req.Header.Set("Accept", "text/event-stream")
	}
	req.Header.Set("OData-Version", "4.0")
	req.Header.Set("User-Agent", "bedplate")
	switch {
	case token != "":
		req.Header.Set("X-Auth-Token", token)
	case basic:
		req.SetBasicAuth(t.target.Username, t.target.Password)
	}
	start := t.now()
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		err = t.fault(ctx, err, t.now().Sub(start))
		cancel()
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: MaxBody, cancel: cancel}
	return resp, nil
}

var errRequestTimeout = fmt.Errorf("no answer within %s", RequestTimeout)

// fault says what kind of error a request that got no answer has ended with.
func (t *Transport) fault(ctx context.Context, err error, took time.Duration) error {
	var cert *bmc.CertificateError
	if errors.As(err, &cert) {
		return cert
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, errRequestTimeout) || errors.Is(cause, context.DeadlineExceeded) && took >= slowRequest {
			return fmt.Errorf("%w: %w", bmc.ErrUnreachable, errors.Join(errRequestTimeout, cause))
		}
		return cause
	}
	return fmt.Errorf("%w at %s: %w", bmc.ErrUnreachable, t.origin.Host, err)
}

type uploadKey struct{}

// asUpload marks a request that may take longer than RequestTimeout: its
// context alone bounds it.
func asUpload(ctx context.Context) context.Context { return context.WithValue(ctx, uploadKey{}, true) }

func isUpload(ctx context.Context) bool { return ctx.Value(uploadKey{}) != nil }

type streamKey struct{}

// asStream marks a request whose answer ends with its context.
func asStream(ctx context.Context) context.Context { return context.WithValue(ctx, streamKey{}, true) }

func isStream(ctx context.Context) bool { return ctx.Value(streamKey{}) != nil }

// boundedBody ends with an error after left bytes, and frees the request's
// context when it is closed.
type boundedBody struct {
	io.ReadCloser
	left   int64
	cancel context.CancelFunc
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errBodyTooLarge
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// drain reads a little of an answer that nobody wants, so that its connection
// can be used again, and closes it.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}
