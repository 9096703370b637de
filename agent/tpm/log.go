package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// LogFile is the firmware's event log, as the kernel hands it on.
const LogFile = "/sys/kernel/security/tpm0/binary_bios_measurements"

// Bounds of what is read of a log.
const (
	maxEvents    = 10_000
	maxEventSize = 1 << 20
	maxBanks     = 16
)

// Types of events (TCG PC Client Platform Firmware Profile §10.4.1).
const (
	evNoAction  = 0x03
	evSeparator = 0x04
)

// Event is one measurement.
type Event struct {
	PCR  uint32
	Type uint32
	// Digest is what the register was extended with.
	Digest Digest
	Data   []byte
}

// errLog says that a log ends too early or is no log.
var errLog = errors.New("the firmware's event log can't be read")

// ParseLog reads an event log with a SHA-256 bank (PFP §10.2: the first entry
// is in the format of TPM 1.2 and says which digests the others have).
func ParseLog(b []byte) ([]Event, error) {
	r := &logReader{b: b}
	r.skip(4) // PCR
	kind := r.u32()
	r.skip(20)
	spec := r.sized()
	if r.bad || kind != evNoAction || !bytes.HasPrefix(spec, []byte("Spec ID Event03\x00")) {
		return nil, fmt.Errorf("%w: it is not of TPM 2.0", errLog)
	}
	sizes, err := bankSizes(spec)
	if err != nil {
		return nil, err
	}
	var out []Event
	for len(r.b) > 0 && len(out) < maxEvents {
		e, ok := r.event(sizes)
		if r.bad {
			return nil, fmt.Errorf("%w: event %d is cut off", errLog, len(out))
		}
		if ok {
			out = append(out, e)
		}
	}
	return out, nil
}

// bankSizes reads TCG_EfiSpecIdEvent: the digests' lengths by algorithm.
func bankSizes(spec []byte) (map[uint16]int, error) {
	r := &logReader{b: spec}
	r.skip(24)
	n := r.u32()
	if r.bad || n == 0 || n > maxBanks {
		return nil, fmt.Errorf("%w: it says that it has %d banks", errLog, n)
	}
	sizes := map[uint16]int{}
	for range n {
		algorithm := r.u16()
		sizes[algorithm] = int(r.u16())
	}
	if r.bad || sizes[sha256ID] != sha256.Size {
		return nil, fmt.Errorf("%w: it has no SHA-256 bank", errLog)
	}
	return sizes, nil
}

// sha256ID is TPM_ALG_SHA256.
const sha256ID = 0x000b

type logReader struct {
	b   []byte
	bad bool
}

func (r *logReader) take(n int) []byte {
	if n < 0 || n > len(r.b) || n > maxEventSize {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *logReader) skip(n int) { r.take(n) }

func (r *logReader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *logReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *logReader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *logReader) sized() []byte {
	n := r.u32()
	if n > maxEventSize {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

// event reads a TCG_PCR_EVENT2; ok is false for one that extended nothing.
func (r *logReader) event(sizes map[uint16]int) (e Event, ok bool) {
	e.PCR, e.Type = r.u32(), r.u32()
	n := r.u32()
	if n > maxBanks {
		r.bad = true
		return e, false
	}
	for range n {
		algorithm := r.u16()
		size, known := sizes[algorithm]
		if !known {
			r.bad = true
			return e, false
		}
		if d := r.take(size); algorithm == sha256ID && d != nil {
			e.Digest, ok = Digest(d), true
		}
	}
	e.Data = r.sized()
	return e, ok && e.Type != evNoAction && !r.bad
}

// extend is what a register holds after one more event.
func extend(d Digest, e Event) Digest {
	return sha256.Sum256(append(d[:], e.Digest[:]...))
}

// Predict returns the values of PCR 7 that this machine can have when it
// starts the same kind of system again. The first is now's, which it has when
// it starts in the way that it did. With Secure Boot every loader (shim)
// measures its own state into the register; a machine that asks the network at
// each boot runs the network's loader first and then the disk's, so that these
// events come twice; where the network's loader vouches for the disk's itself
// and not the firmware, with the entry of db that it did so by in between.
// Without such events, or where the log doesn't lead to now, there is only now.
func Predict(events []Event, now Digest) []Digest {
	out := []Digest{now}
	var value Digest
	var authorities, loaders []Event
	separated := false
	for _, e := range events {
		if e.PCR != 7 {
			continue
		}
		value = extend(value, e)
		switch {
		case e.Type == evSeparator:
			separated = true
		case separated && byFirmware(e):
			authorities = append(authorities, e)
		case separated:
			loaders = append(loaders, e)
		}
	}
	if value != now || len(loaders) == 0 {
		return out
	}
	out = append(out, replay(now, loaders))
	if len(authorities) > 0 {
		out = append(out, replay(replay(now, authorities), loaders))
	}
	return out
}

// replay is what a register holds after more events.
func replay(d Digest, events []Event) Digest {
	for _, e := range events {
		d = extend(d, e)
	}
	return d
}

// byFirmware reports whether an event after the separator is the firmware's
// own: it measures the entry of db that vouched for an image, once a boot
// (UEFI_VARIABLE_DATA: GUID, length of name and data, name; PFP §10.2.6).
func byFirmware(e Event) bool {
	r := &logReader{b: e.Data}
	r.skip(16)
	n := r.u64()
	r.skip(8)
	if n > 64 {
		return false
	}
	raw := r.take(int(2 * n))
	if r.bad {
		return false
	}
	name := make([]uint16, n)
	for i := range name {
		name[i] = binary.LittleEndian.Uint16(raw[2*i:])
	}
	return string(utf16.Decode(name)) == "db"
}
