package vendor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/bedplate/bedplate/bmc"
)

// maxRead bounds what a BMC sends in one call: an inventory is some megabytes in
// hundreds of answers.
const maxRead = 64 << 20

// dialTimeout bounds a connection, and its TLS handshake.
const dialTimeout = 10 * time.Second

// errTooMuch is what reading beyond maxRead ends with.
var errTooMuch = fmt.Errorf("BMC sent more than %d bytes in one call", maxRead)

// wire makes the connections of a session. They all go to the target, whatever
// address is asked for, and end with the call that they were made in.
type wire struct {
	address string
	tls     *tls.Config
	seen    *bmc.Seen

	mu      sync.Mutex
	call    context.Context // of the call under way; nil: none is
	conns   map[*conn]struct{}
	left    int64 // bytes that may still be read in this call
	failure error // first of this call
}

// newWire returns a wire to the target. port is the default one.
func newWire(t bmc.Target, port uint16, now func() time.Time) (*wire, error) {
	host, port, err := t.HostPort(port)
	if err != nil {
		return nil, err
	}
	w := &wire{address: net.JoinHostPort(host, strconv.Itoa(int(port))), seen: &bmc.Seen{}, conns: map[*conn]struct{}{}}
	if !t.TLS.Plaintext {
		w.tls, w.seen, err = t.ClientTLS(now)
	}
	return w, err
}

// transport returns an http.Transport over the wire. Connections aren't kept:
// each belongs to a call.
func (w *wire) transport() *http.Transport {
	return &http.Transport{
		DialContext:            w.dial,
		DialTLSContext:         w.dialTLS,
		DisableKeepAlives:      true,
		ResponseHeaderTimeout:  0, // the call's deadline counts
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// begin lets connections be made until the end of ctx or of the call, which is
// when the returned function is called.
func (w *wire) begin(ctx context.Context) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.call, w.left, w.failure = ctx, maxRead, nil
	stop := context.AfterFunc(ctx, w.cut)
	return func() {
		stop()
		w.mu.Lock()
		w.call = nil
		w.mu.Unlock()
		w.cut()
	}
}

// cut closes every connection.
func (w *wire) cut() {
	w.mu.Lock()
	conns := w.conns
	w.conns = map[*conn]struct{}{}
	w.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

// fault returns what went wrong first on the wire in this call.
func (w *wire) fault() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// failed keeps the first failure, and returns err.
func (w *wire) failed(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil {
		w.failure = err
	}
	return err
}

// errNoCall is what a provider gets that asks on its own.
var errNoCall = errors.New("no call to this BMC is under way")

// dial connects to the target, whatever address says.
func (w *wire) dial(context.Context, string, string) (net.Conn, error) {
	w.mu.Lock()
	ctx := w.call
	w.mu.Unlock()
	if ctx == nil {
		return nil, errNoCall
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "tcp", w.address)
	if err != nil {
		return nil, w.failed(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.call != ctx || ctx.Err() != nil {
		_ = c.Close()
		return nil, errNoCall
	}
	out := &conn{Conn: c, wire: w}
	w.conns[out] = struct{}{}
	return out, nil
}

// dialTLS is dial with TLS above it. A wire without TLS refuses it.
func (w *wire) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	if w.tls == nil {
		return nil, w.failed(errors.New("this provider wants TLS, which the target has turned off"))
	}
	c, err := w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	secure := tls.Client(c, w.tls)
	if err := secure.HandshakeContext(within); err != nil {
		_ = c.Close()
		return nil, w.failed(err)
	}
	return secure, nil
}

// conn counts what it reads.
type conn struct {
	net.Conn
	wire *wire
}

// Read reads as long as the call has bytes left.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.mu.Lock()
	c.wire.left -= int64(n)
	over := c.wire.left < 0
	c.wire.mu.Unlock()
	if over {
		return 0, c.wire.failed(errTooMuch)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		_ = c.wire.failed(err)
	}
	return n, err
}

// Close closes the connection.
func (c *conn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}
