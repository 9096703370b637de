package bmc

import (
	"context"
	"time"
)

// LogEntry is one line of a BMC's event log: the SEL of IPMI, or an entry of a
// Redfish LogService.
type LogEntry struct {
	// ID is the BMC's own, unique in its log until that is cleared.
	ID string
	// Time is zero where the BMC had no clock yet.
	Time     time.Time
	Severity Health
	// Sensor is what it is about, where the BMC says.
	Sensor  string
	Message string
}

// MaxLogEntries bounds what EventLog returns.
const MaxLogEntries = 4096

// EventLog is a BMC's log of what happened to the machine.
type EventLog interface {
	// EventLog returns the newest entries, at most limit (and MaxLogEntries),
	// oldest first. A limit of 0 is MaxLogEntries.
	EventLog(ctx context.Context, limit int) ([]LogEntry, error)
	ClearEventLog(ctx context.Context) error
}
