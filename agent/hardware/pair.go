package hardware

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/trust"
)

// message is one line of JSON between the two ends of a pair, over TLS. The
// connecting end leads:
//
//	connecting                     listening
//	                            ←  busy, or token and ports
//	way: echo                   →
//	 … datagrams and their echo …
//	done                        →
//	                            ←  count (of datagrams)
//	way: send, streams, seconds →
//	 … data, over connections of its own that begin with the token …
//	done                        →
//	                            ←  count (of bytes), corrupt
//	way: receive, …             →   the same the other way; the count is of what was sent
//	summary                     →
//
// The data itself goes unencrypted, as TLS would be what is measured on a fast
// link; the token keeps strangers out of it.
type message struct {
	Busy     bool     `json:"busy,omitempty"`
	Token    string   `json:"token,omitempty"`
	Data     int      `json:"data,omitempty"`
	Echo     int      `json:"echo,omitempty"`
	Way      string   `json:"way,omitempty"`
	Streams  int      `json:"streams,omitempty"`
	Done     bool     `json:"done,omitempty"`
	Count    int64    `json:"count,omitempty"`
	Corrupt  int64    `json:"corrupt,omitempty"`
	Summary  *summary `json:"summary,omitempty"`
	Duration float64  `json:"duration,omitempty"`
}

// summary is what the connecting end measured, in bit/s and ratios.
type summary struct {
	Send, Receive         float64
	SendLoss, ReceiveLoss float64
	Corrupt               int64
	Latency50, Latency99  float64
	Seconds               float64
}

const (
	tokenBytes = 16
	maxLine    = 4 << 10
	// grace is how much longer than its duration a transfer may take.
	grace = 10 * time.Second
	// datagrams are sent evenly over echoTime; each is small enough for any link.
	datagrams     = 2000
	echoTime      = 2 * time.Second
	echoTick      = 10 * time.Millisecond
	datagramBytes = 1200
	// patternBytes is what repeats in the data.
	patternBytes = 1 << 20
	wayEcho      = "echo"
	waySend      = "send"
	wayReceive   = "receive"
)

var errBusy = errors.New("it is measuring with another machine")

func send(c net.Conn, m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(grace))
	_, err = c.Write(append(b, '\n'))
	return err
}

// receive reads one line, byte by byte: there are few, and none may be read too far.
func receive(c net.Conn, limit time.Duration) (message, error) {
	_ = c.SetReadDeadline(time.Now().Add(limit))
	var line []byte
	var b [1]byte
	for len(line) < maxLine {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return message{}, err
		}
		if b[0] == '\n' {
			return parseMessage(line)
		}
		line = append(line, b[0])
	}
	return message{}, errors.New("its message is too long")
}

func parseMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("reading its message: %w", err)
	}
	if m.Streams < 0 || m.Streams > maxStreams || m.Duration < 0 || m.Duration > maxDuration.Seconds() ||
		m.Data < 0 || m.Data > 65535 || m.Echo < 0 || m.Echo > 65535 || m.Count < 0 || m.Corrupt < 0 {
		return message{}, errors.New("its message has a number out of bounds")
	}
	return m, nil
}

// connected is the leading end.
func (m *meeting) connected(ctx context.Context, c *tls.Conn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	peer, err := trust.Peer(c.ConnectionState())
	if err != nil {
		return err
	}
	hello, err := receive(c, grace)
	switch {
	case err != nil:
		return err
	case hello.Busy:
		return errBusy
	}
	token, err := hex.DecodeString(hello.Token)
	if err != nil || len(token) != tokenBytes {
		return errors.New("its token is none")
	}
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return err
	}
	p := &pair{m: m, c: c, token: token, pattern: patternOf(token), streams: m.t.streams, duration: m.t.duration,
		data: net.JoinHostPort(host, fmt.Sprint(hello.Data)), echo: net.JoinHostPort(host, fmt.Sprint(hello.Echo))}
	m.t.rep.Log(step.Agent, fmt.Sprintf("measuring with machine %s", peer.Machine))
	s, err := p.lead(ctx)
	if err != nil {
		return err
	}
	m.report(c, string(peer.Machine), s)
	return send(c, message{Summary: &s})
}

// report makes rows of a summary. The NIC is the one that the connection has.
func (m *meeting) report(c net.Conn, peer string, s summary) {
	nic := "network"
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		nic = nicOf(a.IP)
	}
	took := time.Duration(s.Seconds * float64(time.Second))
	corrupt := result{measure: "peer_corrupt", value: float64(s.Corrupt), unit: unitCount, bad: s.Corrupt > 0}
	if corrupt.bad {
		corrupt.message = "data came that was not what was sent, past every checksum"
	}
	for _, r := range []result{
		{measure: "peer_met", value: 1, unit: unitBool},
		{measure: "peer_send", value: s.Send, unit: unitBitsPerSecond},
		{measure: "peer_receive", value: s.Receive, unit: unitBitsPerSecond},
		{measure: "peer_send_loss", value: s.SendLoss, unit: unitRatio},
		{measure: "peer_receive_loss", value: s.ReceiveLoss, unit: unitRatio},
		{measure: "peer_latency_p50", value: s.Latency50, unit: unitSeconds},
		{measure: "peer_latency_p99", value: s.Latency99, unit: unitSeconds},
		corrupt,
	} {
		r.subject, r.peer, r.took = nic, peer, took
		m.t.report.add(r)
	}
}

// pair is one measurement between two machines, at either end.
type pair struct {
	m          *meeting
	c          net.Conn
	token      []byte
	pattern    []byte
	streams    int
	duration   time.Duration
	data, echo string
}

// patternOf is the data of a token, twice, so that a piece of it at any offset
// is in one place.
func patternOf(token []byte) []byte {
	b := make([]byte, patternBytes, 2*patternBytes)
	fillRandom(b, fold(token))
	return append(b, b...)
}

func (p *pair) lead(ctx context.Context) (summary, error) {
	began := time.Now()
	var s summary
	if err := p.leadEcho(ctx, &s); err != nil {
		return s, fmt.Errorf("measuring loss: %w", err)
	}
	for _, way := range []string{waySend, wayReceive} {
		n, took, corrupt, err := p.leadWay(ctx, way)
		if err != nil {
			return s, fmt.Errorf("measuring throughput, %s: %w", way, err)
		}
		s.Corrupt += corrupt
		if way == waySend {
			s.Send = perSecond(n, took) * 8
		} else {
			s.Receive = perSecond(n, took) * 8
		}
	}
	s.Seconds = time.Since(began).Seconds()
	return s, nil
}

// leadWay moves data for p.duration over as many connections as p.streams.
func (p *pair) leadWay(ctx context.Context, way string) (bytes int64, took time.Duration, corrupt int64, err error) {
	if err := send(p.c, message{Way: way, Streams: p.streams, Duration: p.duration.Seconds()}); err != nil {
		return 0, 0, 0, err
	}
	conns := make([]net.Conn, p.streams)
	defer closeAll(conns)
	for i := range conns {
		d := net.Dialer{Timeout: dialLimit}
		if conns[i], err = d.DialContext(ctx, "tcp", p.data); err != nil {
			return 0, 0, 0, err
		}
		_ = conns[i].SetDeadline(time.Now().Add(p.duration + grace))
		if _, err := conns[i].Write(p.token); err != nil {
			return 0, 0, 0, err
		}
	}
	began := time.Now()
	var n, wrong int64
	if way == waySend {
		p.pour(ctx, conns)
	} else {
		n, wrong = p.drain(ctx, conns)
	}
	took = time.Since(began)
	if err := send(p.c, message{Done: true}); err != nil {
		return 0, 0, 0, err
	}
	answer, err := receive(p.c, p.duration+2*grace)
	if err != nil {
		return 0, 0, 0, err
	}
	if way == waySend {
		// What counts is what arrived, in the time until all of it had.
		n, wrong = answer.Count, answer.Corrupt
		if answer.Duration > 0 {
			took = time.Duration(answer.Duration * float64(time.Second))
		}
	}
	return n, took, wrong, ctx.Err()
}

// pour sends the pattern over each connection for p.duration and then ends it.
func (p *pair) pour(ctx context.Context, conns []net.Conn) int64 {
	var n atomic.Int64
	end := time.Now().Add(p.duration)
	stop := context.AfterFunc(ctx, func() { closeAll(conns) })
	defer stop()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			const piece = 256 << 10
			for off := 0; time.Now().Before(end); off = (off + piece) % patternBytes {
				k, err := c.Write(p.pattern[off : off+piece])
				n.Add(int64(k))
				if err != nil {
					break
				}
			}
			if t, ok := c.(*net.TCPConn); ok {
				_ = t.CloseWrite() // the other end then knows that this was all
			}
		})
	}
	wg.Wait()
	return n.Load()
}

// drain reads each connection to its end and compares what comes with the
// pattern. It returns the bytes that came and how many pieces were not right.
func (p *pair) drain(ctx context.Context, conns []net.Conn) (n, corrupt int64) {
	var total, wrong atomic.Int64
	stop := context.AfterFunc(ctx, func() { closeAll(conns) })
	defer stop()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			b := make([]byte, 256<<10)
			for off := 0; ; {
				k, err := c.Read(b)
				if !bytes.Equal(b[:k], p.pattern[off:off+k]) {
					wrong.Add(1)
				}
				total.Add(int64(k))
				off = (off + k) % patternBytes
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return total.Load(), wrong.Load()
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// leadEcho sends datagrams and hears their echo.
func (p *pair) leadEcho(ctx context.Context, s *summary) error {
	if err := send(p.c, message{Way: wayEcho}); err != nil {
		return err
	}
	c, err := net.Dial("udp", p.echo)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	heard := make(chan []time.Duration, 1)
	began := time.Now()
	go func() { heard <- p.hearEcho(c, began) }() // ends with its deadline
	sent := p.sendEvenly(ctx, c, began)
	times := <-heard
	if err := send(p.c, message{Done: true}); err != nil {
		return err
	}
	answer, err := receive(p.c, grace)
	if err != nil {
		return err
	}
	if sent == 0 {
		return errors.New("no datagram could be sent")
	}
	arrived := min(answer.Count, sent)
	s.SendLoss = float64(sent-arrived) / float64(sent)
	if arrived > 0 {
		s.ReceiveLoss = float64(max(arrived-int64(len(times)), 0)) / float64(arrived)
	}
	if len(times) > 0 {
		slices.Sort(times)
		s.Latency50, s.Latency99 = percentile(times, 50).Seconds(), percentile(times, 99).Seconds()
	}
	return ctx.Err()
}
