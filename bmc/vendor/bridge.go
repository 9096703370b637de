package vendor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// bridge serves plain HTTP on the loopback interface, and passes every request
// on over the wire, for providers that can't be given an http.Client. It adds
// no credentials: whoever else on this host speaks to it has what it would have
// by speaking to the BMC.
type bridge struct {
	server *http.Server
	port   int
	ended  chan struct{}
}

// newBridge starts a bridge to the wire's target, whose URLs begin with origin.
func newBridge(w *wire, origin *url.URL) (*bridge, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a bridge to the BMC: %w", err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: w.transport(),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(origin)
			r.Out.Host = origin.Host
			// BMCs compare it with their own address.
			if r.In.Header.Get("Referer") != "" {
				r.Out.Header.Set("Referer", origin.String())
			}
		},
		ModifyResponse: func(r *http.Response) error {
			insecureCookies(r)
			return nil
		},
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, _ error) {
			rw.WriteHeader(http.StatusBadGateway) // the wire knows why
		},
	}
	b := &bridge{
		server: &http.Server{Handler: proxy, ReadHeaderTimeout: dialTimeout, MaxHeaderBytes: 64 << 10},
		port:   l.Addr().(*net.TCPAddr).Port,
		ended:  make(chan struct{}),
	}
	go func() {
		defer close(b.ended)
		_ = b.server.Serve(l) // until close
	}()
	return b, nil
}

// insecureCookies lets a client send back over the bridge what the BMC has
// given out for TLS only.
func insecureCookies(r *http.Response) {
	cookies := r.Cookies()
	r.Header.Del("Set-Cookie")
	for _, c := range cookies {
		c.Secure, c.Domain = false, ""
		if c.SameSite == http.SameSiteNoneMode {
			c.SameSite = http.SameSiteDefaultMode
		}
		r.Header.Add("Set-Cookie", c.String())
	}
}

// close ends the bridge, and waits until it has ended.
func (b *bridge) close() error {
	if b == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := b.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = b.server.Close()
	}
	<-b.ended
	return err
}
