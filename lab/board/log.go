package board

import (
	"slices"
	"time"
)

// Severity of a log entry, in Redfish's words.
type Severity string

// The severities.
const (
	OK       Severity = "OK"
	Warning  Severity = "Warning"
	Critical Severity = "Critical"
)

// Sensor types (IPMI v2.0 table 42-3).
const (
	sensorTemperature     byte = 0x01
	sensorVoltage         byte = 0x02
	sensorFan             byte = 0x04
	sensorPowerSupply     byte = 0x08
	sensorPowerUnit       byte = 0x09
	sensorOther           byte = 0x0b
	sensorMicrocontroller byte = 0x16
	sensorBoot            byte = 0x1d
)

// Entry is a line of the event log.
type Entry struct {
	ID       int       `json:"id"`
	Time     time.Time `json:"time"`
	Sensor   string    `json:"sensor"`
	Type     byte      `json:"type"` // IPMI's sensor type
	Severity Severity  `json:"severity"`
	// MessageID is a key of the board's own registry.
	MessageID string `json:"messageId"`
	Message   string `json:"message"`
	// Raw is the entry as a client of IPMI wrote it: the last 13 bytes of an SEL record.
	Raw []byte `json:"raw,omitempty"`
}

// maxLog bounds the log; the oldest entries go first.
const maxLog = 512

// record appends to the log.
func (b *Board) record(e Entry) {
	b.mu.Lock()
	e = b.recordLocked(e)
	if err := b.saveLocked(); err != nil {
		b.log.Error("saving the event log", "err", err)
	}
	b.mu.Unlock()
	b.publish(Event{Kind: Logged, Entry: e})
}

func (b *Board) recordLocked(e Entry) Entry {
	if b.saved.NextLog > maxRecord || b.saved.NextLog < 1 {
		b.saved.NextLog = 1
	}
	e.ID, e.Time = b.saved.NextLog, b.now().UTC().Truncate(time.Second)
	b.saved.NextLog++
	b.saved.Log = append(b.saved.Log, e)
	if over := len(b.saved.Log) - maxLog; over > 0 {
		b.saved.Log = slices.Delete(b.saved.Log, 0, over)
	}
	return e
}

// maxRecord is the highest record number that an SEL can have (IPMI v2.0 §31.6).
const maxRecord = 0xfffe

// AddEntry appends an entry that a client made.
func (b *Board) AddEntry(e Entry) Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e = b.recordLocked(e)
	if err := b.saveLocked(); err != nil {
		b.log.Error("saving the event log", "err", err)
	}
	return e
}

// Log returns the event log, oldest first.
func (b *Board) Log() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.saved.Log)
}

// Erased is when the log was last cleared; zero if never.
func (b *Board) Erased() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saved.Erased
}

// ClearLog empties the event log.
func (b *Board) ClearLog() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saved.Log, b.saved.Erased = nil, b.now().UTC().Truncate(time.Second)
	return b.saveLocked()
}
