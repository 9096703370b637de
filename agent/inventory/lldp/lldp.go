// Package lldp reads LLDP frames (IEEE 802.1AB-2016), by which a switch tells
// whoever is at the other end of a cable which port of which switch it is.
//
// A frame's payload is a row of TLVs, type and length in two octets:
//
//	 15          9 8            0
//	+-------------+--------------+---------------+
//	| type, 7 bit | length, 9 bit| value         |
//	+-------------+--------------+---------------+
//
// It is a codec only: Parse and Append know nothing of sockets.
package lldp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// EtherType is LLDP's (§7.5).
const EtherType = 0x88cc

// Multicast is the nearest-bridge group address (§7.1).
var multicast = [6]byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}

// Multicast returns the group address that frames are sent to.
func Multicast() [6]byte { return multicast }

// TLV types (§8.4) and what is read of the organisationally specific ones.
const (
	tlvEnd             = 0
	tlvChassisID       = 1
	tlvPortID          = 2
	tlvTTL             = 3
	tlvPortDescription = 4
	tlvSystemName      = 5
	tlvOrganisation    = 127

	subtypePortVLAN = 1 // annex D.2.1
)

var ieee8021 = [3]byte{0x00, 0x80, 0xc2}

// Subtypes of chassis and port ids (tables 8-2 and 8-3).
const (
	chassisMAC     = 4
	chassisAddress = 5
	portMAC        = 3
	portAddress    = 4
)

// Neighbour is what a frame says.
type Neighbour struct {
	ChassisID       string
	PortID          string
	PortDescription string
	SystemName      string
	// VLAN is the port's untagged VLAN; 0 when it doesn't say.
	VLAN uint16
	// TTL is in seconds; 0 says that the neighbour leaves.
	TTL uint16
}

// ErrFrame says that a payload is no LLDP data unit.
var ErrFrame = errors.New("not an LLDP data unit")

// Parse reads a frame's payload, without the Ethernet header. §9.2.7.7: the
// first three TLVs must be chassis id, port id and time to live, in this order.
func Parse(b []byte) (Neighbour, error) {
	var n Neighbour
	for i := 0; ; i++ {
		if len(b) < 2 {
			if i >= 3 { // some senders leave out the end
				return n, nil
			}
			return n, fmt.Errorf("%w: ends after %d elements", ErrFrame, i)
		}
		head := binary.BigEndian.Uint16(b)
		kind, length := int(head>>9), int(head&0x1ff)
		if len(b) < 2+length {
			return n, fmt.Errorf("%w: element %d of %d bytes is cut short", ErrFrame, i, length)
		}
		value := b[2 : 2+length]
		b = b[2+length:]
		if i < 3 && kind != i+tlvChassisID {
			return n, fmt.Errorf("%w: element %d has type %d", ErrFrame, i, kind)
		}
		if kind == tlvEnd {
			return n, nil
		}
		if err := n.add(kind, value); err != nil {
			return n, err
		}
	}
}

func (n *Neighbour) add(kind int, v []byte) error {
	switch kind {
	case tlvChassisID, tlvPortID:
		if len(v) < 2 {
			return fmt.Errorf("%w: id of %d bytes", ErrFrame, len(v))
		}
		if kind == tlvChassisID {
			n.ChassisID = id(v[0], v[1:], chassisMAC, chassisAddress)
		} else {
			n.PortID = id(v[0], v[1:], portMAC, portAddress)
		}
	case tlvTTL:
		if len(v) < 2 {
			return fmt.Errorf("%w: time to live of %d bytes", ErrFrame, len(v))
		}
		n.TTL = binary.BigEndian.Uint16(v)
	case tlvPortDescription:
		n.PortDescription = text(v)
	case tlvSystemName:
		n.SystemName = text(v)
	case tlvOrganisation:
		if len(v) >= 6 && [3]byte(v) == ieee8021 && v[3] == subtypePortVLAN {
			n.VLAN = binary.BigEndian.Uint16(v[4:])
		}
	}
	return nil
}

// id returns an id as people write it, by its subtype.
func id(subtype byte, v []byte, mac, address byte) string {
	switch {
	case subtype == mac && len(v) == 6:
		return net.HardwareAddr(v).String()
	case subtype == address && len(v) > 1: // v[0] is the IANA address family
		if a, ok := netip.AddrFromSlice(v[1:]); ok {
			return a.String()
		}
		return hex.EncodeToString(v)
	default:
		return text(v)
	}
}

// text keeps what can be printed.
func text(v []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, string(v)))
}

// Append appends n as a data unit with locally assigned ids to b; a neighbour
// for tests and for the lab.
func Append(b []byte, n Neighbour) []byte {
	const chassisLocal, portLocal = 7, 7
	b = appendTLV(b, tlvChassisID, append([]byte{chassisLocal}, n.ChassisID...))
	b = appendTLV(b, tlvPortID, append([]byte{portLocal}, n.PortID...))
	b = appendTLV(b, tlvTTL, binary.BigEndian.AppendUint16(nil, n.TTL))
	if n.PortDescription != "" {
		b = appendTLV(b, tlvPortDescription, []byte(n.PortDescription))
	}
	if n.SystemName != "" {
		b = appendTLV(b, tlvSystemName, []byte(n.SystemName))
	}
	if n.VLAN != 0 {
		v := append(ieee8021[:], subtypePortVLAN)
		b = appendTLV(b, tlvOrganisation, binary.BigEndian.AppendUint16(v, n.VLAN))
	}
	return appendTLV(b, tlvEnd, nil)
}

// maxValue is what nine bits of length hold.
const maxValue = 1<<9 - 1

func appendTLV(b []byte, kind int, value []byte) []byte {
	value = value[:min(len(value), maxValue)]
	b = binary.BigEndian.AppendUint16(b, uint16(kind<<9|len(value)))
	return append(b, value...)
}
