package ipmi

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/bougou/go-ipmi/pkg/command/storage"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// The ends of a chain of records (§31.5).
const (
	firstRecord = 0x0000
	lastRecord  = 0xffff
)

// EventLog reads the SEL from its first record on; it can't be read backwards.
func (d *Driver) EventLog(ctx context.Context, limit int) ([]bmc.LogEntry, error) {
	if limit <= 0 || limit > bmc.MaxLogEntries {
		limit = bmc.MaxLogEntries
	}
	var entries []bmc.LogEntry
	err := d.do(ctx, "event log", func(ctx context.Context) error {
		info, err := d.c.GetSELInfo(ctx)
		if err != nil || info.Entries == 0 {
			return err
		}
		// Records of a log that changes or lies must not lead in circles.
		for id, n := uint16(firstRecord), 0; n < bmc.MaxLogEntries; n++ {
			answer := &storage.GetSELEntryResponse{}
			err := d.c.Exchange(ctx, &storage.GetSELEntryRequest{RecordID: id, ReadBytes: 0xff}, answer)
			if err != nil {
				return fmt.Errorf("reading record %#04x: %w", id, err)
			}
			if sel, err := types.ParseSEL(answer.Data); err == nil {
				entries = append(entries, entryOf(sel))
			}
			if answer.NextRecordID == lastRecord || answer.NextRecordID == id {
				break
			}
			id = answer.NextRecordID
		}
		return nil
	})
	return entries[max(0, len(entries)-limit):], err
}

// entryOf returns a record in the words of package bmc.
func entryOf(sel *types.SEL) bmc.LogEntry {
	e := bmc.LogEntry{ID: strconv.Itoa(int(sel.RecordID))}
	switch {
	case sel.Standard != nil:
		s := sel.Standard
		e.Time = timeOf(s.Timestamp)
		e.Sensor = fmt.Sprintf("%s %#02x", s.SensorType, uint8(s.SensorNumber))
		e.Message = s.EventString()
		if e.Message == "" {
			e.Message = fmt.Sprintf("event type %#02x data %02x %02x %02x", uint8(s.EventReadingType), s.EventData.EventData1, s.EventData.EventData2, s.EventData.EventData3)
		}
		if bool(s.EventDir) {
			e.Message += " (ended)"
		}
		e.Severity = severity(s.EventSeverity())
	case sel.OEMTimestamped != nil:
		e.Time = timeOf(sel.OEMTimestamped.Timestamp)
		e.Message = fmt.Sprintf("vendor's record %#02x: %x", uint8(sel.RecordType), sel.OEMTimestamped.OEMDefined)
	case sel.OEMNonTimestamped != nil:
		e.Message = fmt.Sprintf("vendor's record %#02x", uint8(sel.RecordType))
	}
	e.Message = clean(e.Message)
	return e
}

// timeOf leaves times out that count from the BMC's start (§37: below 20000000h).
func timeOf(t time.Time) time.Time {
	if t.Unix() < 0x20000000 || t.Unix() >= 0xffffffff {
		return time.Time{}
	}
	return t.UTC()
}

func severity(s types.EventSeverity) bmc.Health {
	switch s {
	case types.EventSeverityInfo, types.EventSeverityOK:
		return bmc.HealthOK
	case types.EventSeverityWarning, types.EventSeverityDegraded, types.EventSeverityNonFatal:
		return bmc.HealthWarning
	case types.EventSeverityCritical:
		return bmc.HealthCritical
	}
	return bmc.HealthUnknown
}

// ClearEventLog reserves the SEL and clears it (§31.9).
func (d *Driver) ClearEventLog(ctx context.Context) error {
	return d.do(ctx, "clearing the event log", func(ctx context.Context) error {
		reservation, err := d.c.ReserveSEL(ctx)
		if err != nil && !isCode(err, types.CodeInvalidCommand) {
			return err
		}
		var id uint16
		if err == nil {
			id = reservation.ReservationID
		}
		_, err = d.c.ClearSEL(ctx, id)
		return err
	})
}
