package redfish

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/bmc"
)

func TestReadEvents(t *testing.T) {
	const message = `{"Events":[{"EventId":"7","Severity":"OK","MessageSeverity":"Critical","Message":"PSU 2 failed","MessageId":"X.1.0.PSU","OriginOfCondition":{"@odata.id":"/redfish/v1/Systems/1"}}]}`
	want := bmc.Event{ID: "7", Severity: bmc.HealthCritical, MessageID: "X.1.0.PSU", Message: "PSU 2 failed", Origin: "/redfish/v1/Systems/1"}
	for name, tt := range map[string]struct {
		stream string
		want   []bmc.Event
	}{
		"one event":                               {"id: 7\ndata: " + message + "\n\n", []bmc.Event{want}},
		"lines that end in CR LF":                 {"data: " + message + "\r\n\r\n", []bmc.Event{want}},
		"an event over several lines":             {"data: {\"Events\":\ndata:" + strings.TrimPrefix(message, `{"Events":`) + "\n\n", []bmc.Event{want}},
		"comments that keep the connection alive": {": hello\n\n: still here\n\ndata: " + message + "\n\n", []bmc.Event{want}},
		"an event that was cut off is none":       {"data: " + message + "\n", nil},
		"what is no JSON is passed over":          {"data: {{{\n\ndata: " + message + "\n\n", []bmc.Event{want}},
		"a property of another type stays empty":  {`data: {"Events":[{"EventId":7,"Message":"hello"}]}` + "\n\n", []bmc.Event{{Message: "hello"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []bmc.Event
			if err := readEvents(strings.NewReader(tt.stream), func(e bmc.Event) { got = append(got, e) }); !errors.Is(err, io.EOF) {
				t.Errorf("err = %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Run("an event without end is an error", func(t *testing.T) {
		for name, line := range map[string]string{"in one line": strings.Repeat("x", 2*maxEventLine), "in many": strings.Repeat("data: "+strings.Repeat("x", 1<<10)+"\n", 2<<10)} {
			if err := readEvents(strings.NewReader(line), func(bmc.Event) {}); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%s: err = %v", name, err)
			}
		}
	})
}

func FuzzReadEvents(f *testing.F) {
	for _, seed := range []string{
		"data: {\"Events\":[{\"EventId\":\"1\",\"EventTimestamp\":\"2026-01-02T03:04:05Z\"}]}\n\n", // one event
		"id: 1\r\nevent: x\r\nretry: 5\r\n\r\n",                                                    // fields that aren't data
		":\n\ndata\n\ndata:\n\n",                                                                   // a comment, fields without a value
		"data: [1]\n\ndata: null\n\n",                                                              // JSON that is no event
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		n := 0
		_ = readEvents(strings.NewReader(string(stream)), func(e bmc.Event) {
			if n++; len(e.Message) > 4096 {
				t.Errorf("a message of %d bytes", len(e.Message))
			}
		})
		if n > maxEvents*(1+strings.Count(string(stream), "\n")) {
			t.Errorf("%d events of %d bytes", n, len(stream))
		}
	})
}
