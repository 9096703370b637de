package hardware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// serverPeer is what the server is called where results have the name of a machine.
const serverPeer = "server"

// speedBytes is what one request asks for at most; another follows it.
const speedBytes = 8 << 30

// againstServer measures how fast data comes from the server's /speed and goes
// there. A server that can't take part now is no fault of this machine.
func (t *networkTest) againstServer(ctx context.Context, client *http.Client, base string) {
	u, err := url.Parse(base)
	if err != nil || client == nil {
		t.rep.Log(step.Agent, fmt.Sprintf("not measured against the server: %v", err))
		return
	}
	nic := nicTowards(u.Host)
	for _, way := range []struct {
		measure string
		one     func(context.Context, *http.Client, string, *atomic.Int64) error
	}{{"server_receive", download}, {"server_send", upload}} {
		t.rep.Progress(0, 0, "bytes", way.measure)
		n, took, err := t.parallel(ctx, way.measure, func(ctx context.Context, n *atomic.Int64) error {
			return way.one(ctx, client, base+"/speed", n)
		})
		if n == 0 && err != nil {
			t.rep.Log(step.Agent, fmt.Sprintf("%s not measured: %v", way.measure, err))
			continue
		}
		t.report.add(result{subject: nic, measure: way.measure, value: perSecond(n, took) * 8, unit: unitBitsPerSecond, peer: serverPeer, took: took})
	}
}

// parallel runs one transfer in each of t.streams goroutines for t.duration
// and returns how many bytes went in all.
func (t *networkTest) parallel(ctx context.Context, what string, one func(context.Context, *atomic.Int64) error) (int64, time.Duration, error) {
	limited, cancel := context.WithTimeout(ctx, t.duration)
	defer cancel()
	var total atomic.Int64
	errs := make([]error, t.streams)
	began := t.s.Now()
	stop := every(pulse, func() { t.rep.Progress(total.Load(), 0, "bytes", what) })
	var wg sync.WaitGroup
	for i := range t.streams {
		wg.Go(func() {
			for limited.Err() == nil && errs[i] == nil {
				errs[i] = one(limited, &total)
			}
			if limited.Err() != nil {
				errs[i] = nil // its time was over
			}
		})
	}
	wg.Wait()
	stop()
	return total.Load(), t.s.Now().Sub(began), errors.Join(append(errs, ctx.Err())...)
}

func download(ctx context.Context, client *http.Client, url string, n *atomic.Int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s?bytes=%d", url, int64(speedBytes)), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	_, err = io.Copy(counter{n}, resp.Body)
	return err
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

func upload(ctx context.Context, client *http.Client, url string, n *atomic.Int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, io.LimitReader(&source{ctx: ctx, n: n}, speedBytes))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	return nil
}

// source gives bytes until ctx is done, and counts them as they are taken.
type source struct {
	ctx context.Context
	n   *atomic.Int64
}

func (s *source) Read(b []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, io.EOF
	}
	s.n.Add(int64(len(b)))
	return len(b), nil // what is in b; nobody reads it
}

// nicTowards returns the name of the interface that packets to host leave by.
func nicTowards(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	c, err := net.Dial("udp", net.JoinHostPort(host, "9")) // sends nothing
	if err != nil {
		return "network"
	}
	defer c.Close()
	a, _ := c.LocalAddr().(*net.UDPAddr)
	return nicOf(a.IP)
}

// nicOf returns the name of the interface that has an address.
func nicOf(ip net.IP) string {
	all, err := net.Interfaces()
	if err != nil {
		return "network"
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return i.Name
			}
		}
	}
	return "network"
}
