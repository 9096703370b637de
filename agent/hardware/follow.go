package hardware

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/trust"
)

// accepted is the listening end, which does what it is told until it is given
// the summary.
func (m *meeting) accepted(ctx context.Context, c *tls.Conn) error {
	peer, err := trust.Peer(c.ConnectionState())
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return err
	}
	p := &pair{m: m, c: c, token: make([]byte, tokenBytes)}
	if _, err := io.ReadFull(m.t.s.Random, p.token); err != nil {
		return fmt.Errorf("making token: %w", err)
	}
	p.pattern = patternOf(p.token)
	data, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	defer data.Close()
	echo, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	defer echo.Close()
	m.t.rep.Log(step.Agent, fmt.Sprintf("machine %s measures with this one", peer.Machine))
	counted := make(chan int64, 1)
	go func() { counted <- p.echoes(echo.(*net.UDPConn)) }() // ends when the socket is closed
	err = send(c, message{Token: hex.EncodeToString(p.token), Data: data.Addr().(*net.TCPAddr).Port, Echo: echo.LocalAddr().(*net.UDPAddr).Port})
	if err != nil {
		return err
	}
	return p.follow(ctx, data, echo, counted, string(peer.Machine))
}

func (p *pair) follow(ctx context.Context, data net.Listener, echo net.PacketConn, counted <-chan int64, peer string) error {
	for {
		order, err := receive(p.c, 2*grace)
		if err != nil {
			return err
		}
		switch {
		case order.Summary != nil:
			s := *order.Summary // of the other end: what it sent came here
			s.Send, s.Receive = s.Receive, s.Send
			s.SendLoss, s.ReceiveLoss = s.ReceiveLoss, s.SendLoss
			p.m.report(p.c, peer, s)
			return nil
		case order.Way == wayEcho:
			err = p.followEcho(echo, counted)
		case order.Way == waySend || order.Way == wayReceive:
			err = p.followWay(ctx, data, order)
		default:
			err = errors.New("it wants something unknown; both machines must have agents of the same version")
		}
		if err != nil {
			return err
		}
	}
}

func (p *pair) followEcho(echo net.PacketConn, counted <-chan int64) error {
	if done, err := receive(p.c, echoTime+2*grace); err != nil || !done.Done {
		return errors.Join(err, errors.New("the other machine gave up"))
	}
	echo.Close()
	return send(p.c, message{Count: <-counted})
}

func (p *pair) followWay(ctx context.Context, data net.Listener, order message) error {
	p.duration = time.Duration(order.Duration * float64(time.Second))
	conns, err := p.admit(data, order.Streams)
	defer closeAll(conns)
	if err != nil {
		return err
	}
	began := time.Now()
	var answer message
	if order.Way == waySend {
		answer.Count, answer.Corrupt = p.drain(ctx, conns)
	} else {
		answer.Count = p.pour(ctx, conns)
	}
	answer.Duration = time.Since(began).Seconds()
	if done, err := receive(p.c, p.duration+2*grace); err != nil || !done.Done {
		return errors.Join(err, errors.New("the other machine gave up"))
	}
	return send(p.c, answer)
}

// admit accepts n connections that begin with the token; others are dropped.
func (p *pair) admit(l net.Listener, n int) ([]net.Conn, error) {
	if t, ok := l.(*net.TCPListener); ok {
		_ = t.SetDeadline(time.Now().Add(grace))
	}
	var conns []net.Conn
	for strangers := 0; len(conns) < n; {
		c, err := l.Accept()
		if err != nil {
			return conns, err
		}
		_ = c.SetDeadline(time.Now().Add(dialLimit))
		got := make([]byte, tokenBytes)
		if _, err := io.ReadFull(c, got); err != nil || subtle.ConstantTimeCompare(got, p.token) != 1 {
			c.Close()
			if strangers++; strangers > waitingConnections {
				return conns, errors.New("too many strangers connect")
			}
			continue
		}
		_ = c.SetDeadline(time.Now().Add(p.duration + grace))
		conns = append(conns, c)
	}
	return conns, nil
}
