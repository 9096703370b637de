package ipxe

import (
	"net/url"
	"strings"

	"github.com/bedplate/bedplate/machine"
)

const (
	maxMACs   = 16
	maxSerial = 128
)

// query is who a script is for, as the request says. Anything that does not
// parse is as if it was not there.
type query struct {
	macs   []machine.MAC
	uuid   machine.UUID
	serial string
}

// parseQuery reads mac= (any number; 52-54-00-77-00-01 as iPXE's hexhyp, or with
// colons), uuid= and serial=.
func parseQuery(values url.Values) query {
	var q query
	for _, s := range values["mac"] {
		mac, err := machine.ParseMAC(s)
		if err == nil && !mac.IsZero() && !seen(q.macs, mac) && len(q.macs) < maxMACs {
			q.macs = append(q.macs, mac)
		}
	}
	if uuid, err := machine.ParseUUID(values.Get("uuid")); err == nil && !placeholderUUID(uuid) {
		q.uuid = uuid
	}
	if serial := strings.TrimSpace(values.Get("serial")); len(serial) <= maxSerial && !placeholderSerial(serial) {
		q.serial = serial
	}
	return q
}

func seen(macs []machine.MAC, mac machine.MAC) bool {
	for _, m := range macs {
		if m == mac {
			return true
		}
	}
	return false
}

// mac returns the first MAC address: that of the interface booted over.
func (q query) mac() machine.MAC {
	if len(q.macs) == 0 {
		return machine.MAC{}
	}
	return q.macs[0]
}

// empty reports whether the request does not say who asks.
func (q query) empty() bool { return len(q.macs) == 0 && q.uuid == "" && q.serial == "" }

// find returns the machine that q means: by MAC address, then UUID, then serial number.
func (q query) find(machines Machines) (machine.Machine, bool) {
	for _, mac := range q.macs {
		if m, ok := machines.ByMAC(mac); ok {
			return m, true
		}
	}
	if q.uuid != "" {
		if m, ok := machines.ByUUID(q.uuid); ok {
			return m, true
		}
		// The same machine says its UUID in either byte order: iPXE big-endian
		// and OVMF little-endian in its first three fields, or the other way
		// round with firmware from before SMBIOS 2.6.
		if m, ok := machines.ByUUID(swapUUID(q.uuid)); ok {
			return m, true
		}
	}
	if q.serial != "" {
		return machines.BySerial(q.serial)
	}
	return machine.Machine{}, false
}

// swapUUID turns the byte order of the first three fields of a parsed UUID.
func swapUUID(u machine.UUID) machine.UUID {
	fields := strings.Split(string(u), "-")
	if len(fields) != 5 {
		return u
	}
	for i, f := range fields[:3] {
		var turned strings.Builder
		for j := len(f) - 2; j >= 0; j -= 2 {
			turned.WriteString(f[j : j+2])
		}
		fields[i] = turned.String()
	}
	return machine.UUID(strings.Join(fields, "-"))
}
