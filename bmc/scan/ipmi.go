package scan

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

const (
	ipmiPort = 623
	// pingTries and pingWait: UDP gets lost, and BMCs sleep.
	pingTries = 2
	pingWait  = time.Second
	maxPacket = 512
)

// RMCP (ASF 2.0 §3.2.2, IPMI 2.0 §13.1.3).
const (
	rmcpVersion1 = 0x06
	rmcpNoAck    = 0xff
	classASF     = 0x06
	classIPMI    = 0x07
	asfIANA      = 4542
	asfPing      = 0x80
	asfPong      = 0x40
)

// presencePing is the ASF message that every IPMI BMC has to answer (IPMI 2.0 §13.2.3):
//
//	06 00 ff 06        RMCP: version 1.0, no acknowledgement, class ASF
//	00 00 11 be        ASF's enterprise number, 4542
//	80 tag 00 00       presence ping, tag, reserved, no data
func presencePing(tag byte) []byte {
	p := []byte{rmcpVersion1, 0, rmcpNoAck, classASF}
	p = binary.BigEndian.AppendUint32(p, asfIANA)
	return append(p, asfPing, tag, 0, 0)
}

// channelAuth is Get Channel Authentication Capabilities outside of a session
// (IPMI 2.0 §22.13), for BMCs that are silent to a ping:
//
//	06 00 ff 07                          RMCP: class IPMI
//	00 00 00 00 00 00 00 00 00 09        no authentication, sequence 0, session 0, 9 bytes follow
//	20 18 c8 81 seq 38 8e 04 checksum    to the BMC, network function App, command 38h,
//	                                     this channel with IPMI 2.0 data, privilege administrator
func channelAuth(seq byte) []byte {
	p := []byte{rmcpVersion1, 0, rmcpNoAck, classIPMI, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}
	head := []byte{0x20, 0x18}
	body := []byte{0x81, seq << 2, 0x38, 0x8e, 0x04}
	p = append(append(p, head...), checksum(head))
	return append(append(p, body...), checksum(body))
}

// checksum is two's complement over the bytes (IPMI 2.0 §13.8).
func checksum(b []byte) byte {
	var sum byte
	for _, x := range b {
		sum += x
	}
	return -sum
}

// isAnswer reports whether a datagram is a BMC's answer to one of the two.
func isAnswer(p []byte) bool {
	if len(p) < 4 || p[0] != rmcpVersion1 {
		return false
	}
	switch p[3] {
	case classASF:
		// Pong: 4542, type, tag, reserved, 16; then IANA, OEM, entities: bit 7 is IPMI.
		return len(p) >= 12+9 && binary.BigEndian.Uint32(p[4:]) == asfIANA && p[8] == asfPong && p[12+8]&0x80 != 0
	case classIPMI:
		// Session header of 10 bytes, then address, network function App response, checksum.
		return len(p) >= 14+7 && p[4] == 0 && p[15]>>2 == 0x07 && checksum(p[14:16]) == p[16] && p[19] == 0x38
	}
	return false
}

// askIPMI reports whether something at the address answers as a BMC.
func askIPMI(ctx context.Context, to netip.AddrPort, now func() time.Time) bool {
	conn, err := dialer.DialContext(ctx, "udp", to.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for try := range pingTries {
		for _, p := range [][]byte{presencePing(byte(try)), channelAuth(byte(try))} {
			if _, err := conn.Write(p); err != nil {
				return false
			}
		}
		if hears(conn, now().Add(pingWait)) {
			return true
		}
	}
	return false
}

// hears waits for an answer. A port that is closed ends it at once.
func hears(conn net.Conn, until time.Time) bool {
	if conn.SetReadDeadline(until) != nil {
		return false
	}
	buf := make([]byte, maxPacket)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return false
		}
		if isAnswer(buf[:n]) {
			return true
		}
	}
}
