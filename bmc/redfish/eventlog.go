package redfish

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bedplate/bedplate/bmc"
)

// logService is a log (LogService schema).
type logService struct {
	ID      string `json:"Id"`
	Name    string
	Type    string `json:"LogEntryType"`
	Entries link
	Actions struct {
		Clear action `json:"#LogService.ClearLog"`
	}
}

// sel reports how likely the log is the system event log: the lower the likelier.
func (l logService) rank() int {
	switch name := strings.ToLower(l.ID); {
	case l.Type == "SEL":
		return 0
	case name == "sel", name == "iml": // HPE has Integrated Management Log
		return 1
	case strings.Contains(strings.ToLower(l.Name), "system event log"), name == "eventlog":
		return 2
	case name == "log1": // Supermicro
		return 3
	}
	return 4
}

// eventLog finds the system event log among the logs of the system, its
// managers and its chassis.
func (d *Driver) eventLog(ctx context.Context) (*logService, error) {
	ctx = withBudget(ctx)
	s, err := d.system(ctx)
	if err != nil {
		return nil, err
	}
	owners := []string{}
	for _, list := range []func(context.Context) ([]string, error){d.managers, d.chassis} {
		if paths, err := list(ctx); err == nil {
			owners = append(owners, paths...)
		}
	}
	services := []string{s.LogServices.Path}
	for _, path := range owners {
		var o struct{ LogServices link }
		if _, err := d.get(ctx, path, &o); err == nil {
			services = append(services, o.LogServices.Path)
		}
	}
	var logs []logService
	var problem error
	for _, path := range services {
		found, err := collect[logService](ctx, d, path, func(err error) { problem = err })
		if err != nil {
			problem = err
		}
		logs = append(logs, found...)
	}
	logs = slices.DeleteFunc(logs, func(l logService) bool { return l.Entries.Path == "" })
	if len(logs) == 0 {
		if problem != nil {
			return nil, problem
		}
		return nil, d.lacks("event log")
	}
	best := slices.MinFunc(logs, func(a, b logService) int { return cmp.Compare(a.rank(), b.rank()) })
	return &best, nil
}

// logEntry is a line of a log (LogEntry schema).
type logEntry struct {
	ID         string `json:"Id"`
	Created    string
	Timestamp  string `json:"EventTimestamp"`
	Severity   string
	Message    string
	MessageID  string `json:"MessageId"`
	Sensor     string `json:"SensorType"`
	EntryCode  string
	SensorName string `json:"Name"`
}

// EventLog reads the newest entries of the system event log.
func (d *Driver) EventLog(ctx context.Context, limit int) ([]bmc.LogEntry, error) {
	if limit <= 0 || limit > bmc.MaxLogEntries {
		limit = bmc.MaxLogEntries
	}
	log, err := d.eventLog(ctx)
	if err != nil {
		return nil, err
	}
	var entries []bmc.LogEntry
	var problem error
	// Services list oldest first or newest first: all of it is read, and the
	// newest kept.
	err = d.pages(ctx, log.Entries.Path, func(p page) bool {
		for _, raw := range p.Members {
			if isLink(raw) {
				continue // read below
			}
			var e logEntry
			if decode(raw, &e) == nil {
				entries = append(entries, e.entry())
			}
		}
		return len(entries) < bmc.MaxLogEntries
	})
	if err == nil && len(entries) == 0 {
		entries, err = d.linkedEntries(ctx, log.Entries.Path, limit, func(err error) { problem = err })
	}
	if err == nil && len(entries) == 0 {
		err = problem
	}
	slices.SortStableFunc(entries, compareEntries)
	return entries[max(0, len(entries)-limit):], err
}

// linkedEntries reads a log whose collection has only links.
func (d *Driver) linkedEntries(ctx context.Context, path string, limit int, failed func(error)) ([]bmc.LogEntry, error) {
	all, err := collect[logEntry](ctx, d, path, failed)
	var entries []bmc.LogEntry
	for _, e := range all {
		entries = append(entries, e.entry())
	}
	return entries[max(0, len(entries)-max(limit, 0)):], err
}

func (e logEntry) entry() bmc.LogEntry {
	entry := bmc.LogEntry{ID: e.ID, Severity: health(e.Severity), Sensor: e.Sensor, Message: shorten(e.Message)}
	if entry.Message == "" {
		entry.Message = shorten(e.MessageID)
	}
	for _, text := range []string{e.Timestamp, e.Created} {
		if t, err := time.Parse(time.RFC3339, text); err == nil && t.Year() > 1980 && t.Year() < 9999 {
			entry.Time = t
			break
		}
	}
	return entry
}

// compareEntries sorts by time, or by number where one has none.
func compareEntries(a, b bmc.LogEntry) int {
	if !a.Time.IsZero() && !b.Time.IsZero() {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
	}
	x, errX := strconv.Atoi(a.ID)
	y, errY := strconv.Atoi(b.ID)
	if errX == nil && errY == nil {
		return cmp.Compare(x, y)
	}
	return 0
}

// ClearEventLog clears the system event log.
func (d *Driver) ClearEventLog(ctx context.Context) error {
	log, err := d.eventLog(ctx)
	if err != nil {
		return err
	}
	if log.Actions.Clear.Target == "" {
		return d.lacks("clearing the event log")
	}
	_, err = d.post(ctx, log.Actions.Clear.Target, map[string]any{})
	return err
}
