package hardware

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// A datagram is the token, its number from 0 and when it was sent, in
// nanoseconds since the first; zeros fill it up:
//
//	0        16       24       32            1200
//	+--------+--------+--------+---------------+
//	| token  | number | time   | zeros         |
//	+--------+--------+--------+---------------+

// appendDatagram makes one.
func appendDatagram(b, token []byte, number uint64, at time.Duration) []byte {
	b = append(b, token...)
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	return append(b, make([]byte, datagramBytes-len(b))...)
}

// parseDatagram reads one; false if it is not of this token.
func parseDatagram(b, token []byte) (number uint64, at time.Duration, ok bool) {
	if len(b) != datagramBytes || !bytes.Equal(b[:tokenBytes], token) {
		return 0, 0, false
	}
	number = binary.BigEndian.Uint64(b[tokenBytes:])
	return number, time.Duration(binary.BigEndian.Uint64(b[tokenBytes+8:])), number < datagrams
}

// sendEvenly sends all datagrams over echoTime and returns how many went.
func (p *pair) sendEvenly(ctx context.Context, c net.Conn, began time.Time) (sent int64) {
	tick := time.NewTicker(echoTick)
	defer tick.Stop()
	for n := uint64(0); n < datagrams && ctx.Err() == nil; {
		due := uint64(float64(time.Since(began)) / float64(echoTime) * datagrams)
		for ; n < min(due, datagrams); n++ {
			if _, err := c.Write(appendDatagram(nil, p.token, n, time.Since(began))); err == nil {
				sent++
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return sent
}

// hearEcho returns how long each echo took, until a second after the last
// datagram was sent.
func (p *pair) hearEcho(c net.Conn, began time.Time) []time.Duration {
	_ = c.SetReadDeadline(began.Add(echoTime + time.Second))
	var times []time.Duration
	seen := [datagrams]bool{}
	b := make([]byte, 2*datagramBytes)
	for len(times) < datagrams {
		k, err := c.Read(b)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // of an earlier datagram; there are only so many
		}
		if err != nil {
			return times
		}
		now := time.Since(began)
		number, at, ok := parseDatagram(b[:k], p.token)
		if !ok || seen[number] || at < 0 || at > now {
			continue
		}
		seen[number] = true
		times = append(times, now-at)
	}
	return times
}

// echoes sends every datagram of this token back and counts each once, until
// the socket is closed.
func (p *pair) echoes(c *net.UDPConn) (count int64) {
	seen := [datagrams]bool{}
	b := make([]byte, 2*datagramBytes)
	for {
		k, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return count
		}
		number, _, ok := parseDatagram(b[:k], p.token)
		if !ok {
			continue
		}
		if !seen[number] {
			seen[number] = true
			count++
		}
		_, _ = c.WriteToUDPAddrPort(b[:k], from) // lost is lost
	}
}
