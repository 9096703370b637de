package redfish

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/bedplate/bedplate/bmc"
)

// The bounds of a stream of events.
const (
	// maxEventLine bounds one line, and maxEventData the lines of one event.
	maxEventLine = 256 << 10
	maxEventData = 1 << 20
	// maxEvents bounds what one message has in it.
	maxEvents = 256
)

// eventService is the service's part in events (EventService schema).
type eventService struct {
	ServiceEnabled *bool
	Stream         string `json:"ServerSentEventUri"`
}

// EventStream returns the path of the service's server-sent events (since
// EventService 1.1); empty where it has none, or has turned them off.
func (d *Driver) EventStream(ctx context.Context) (string, error) {
	if d.stream != nil {
		return *d.stream, nil
	}
	var s eventService
	if d.root.EventService.Path != "" {
		if _, err := d.get(ctx, d.root.EventService.Path, &s); err != nil && !errors.Is(err, bmc.ErrNotFound) {
			return "", err
		}
	}
	if s.ServiceEnabled != nil && !*s.ServiceEnabled {
		s.Stream = ""
	}
	d.stream = &s.Stream
	return s.Stream, nil
}

// Watch listens to the service's server-sent events (DSP0266 §13.5). This
// session is used for nothing else meanwhile.
func (d *Driver) Watch(ctx context.Context, opened func(), each func(bmc.Event)) error {
	path, err := d.EventStream(ctx)
	if err != nil {
		return err
	}
	if path == "" {
		return d.lacks("events")
	}
	where, err := d.resolve(path)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(asStream(ctx), http.MethodGet, where, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: listening for events: %w", Name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		a, err := readAnswer(resp)
		if err != nil {
			return err
		}
		return fmt.Errorf("%s: listening for events: %w", Name, a.asError(d.t.redactor()))
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return fmt.Errorf("%s: events: %s answers with %q, not a stream: %w", Name, path, kind, bmc.ErrUnsupported)
	}
	opened()
	err = readEvents(resp.Body, each)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fmt.Errorf("%s: %w: the stream of events has ended: %w", Name, bmc.ErrUnreachable, err)
}

// readEvents reads server-sent events (HTML Living Standard §9.2.6) to the end
// of r, which is an error, and calls each for every Redfish event in them.
func readEvents(r io.Reader, each func(bmc.Event)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxEventLine)
	var data []byte
	for lines.Scan() {
		line := bytes.TrimSuffix(lines.Bytes(), []byte("\r"))
		if len(line) == 0 {
			parseEvents(data, each)
			data = data[:0]
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		if string(field) != "data" {
			continue // a comment, an id, a name, or the time before the next try
		}
		value = bytes.TrimPrefix(value, []byte(" "))
		if len(data)+len(value)+1 > maxEventData {
			return fmt.Errorf("an event is larger than %d bytes", maxEventData)
		}
		data = append(append(data, value...), '\n')
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

// parseEvents reads one message (Event schema): its members are the events.
func parseEvents(data []byte, each func(bmc.Event)) {
	var message struct {
		Events []struct {
			EventID         string `json:"EventId"`
			EventTimestamp  string
			Severity        string
			MessageSeverity string
			MessageID       string `json:"MessageId"`
			Message         string
			Origin          link `json:"OriginOfCondition"`
		}
	}
	if len(bytes.TrimSpace(data)) == 0 || decode(data, &message) != nil {
		return
	}
	for _, e := range message.Events[:min(len(message.Events), maxEvents)] {
		severity := e.MessageSeverity
		if severity == "" {
			severity = e.Severity
		}
		out := bmc.Event{
			ID: shorten(e.EventID), Severity: health(severity), MessageID: shorten(e.MessageID), Message: shorten(e.Message), Origin: shorten(e.Origin.Path),
		}
		if t, err := time.Parse(time.RFC3339, e.EventTimestamp); err == nil && t.Year() > 1980 && t.Year() < 9999 {
			out.Time = t
		}
		each(out)
	}
}
