package erase

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Verification is how what a method did was read back.
type Verification struct {
	kind    string
	samples int
	seed    uint64
	bytes   int64
	// result is what was found: zeros, ones, random, or changed: anything, but
	// not what was there before.
	result string
}

func (v Verification) outputs() map[string]any {
	return map[string]any{"kind": v.kind, "samples": int64(v.samples), "seed": seedText(v.seed), "bytes_read": v.bytes, "result": v.result}
}

// try is a method that was tried and failed.
type try struct{ method, reason string }

// Result is what became of one disk.
type Result struct {
	disk                    *pb.Disk
	model, serial, firmware string
	method, level           string
	// after is the method that came after the one that counts, to have the disk
	// read as zeros.
	after      string
	resumed    bool
	tried      []try
	notOffered []string
	hidden     []string
	started    time.Time
	took       time.Duration
	logPage    string
	verified   Verification
	err        error
}

// Bounds of what one disk may say: of 128 disks the server has to take it.
const (
	maxWord   = 64
	maxReason = 400
	maxTries  = 8
)

// roomFor is what one reason may take of a step's outputs, of which there are
// some hundred KiB, when so many disks have some.
func roomFor(disks int) int { return max(40, min(maxReason, 30<<10/max(1, disks))) }

// outputs is the result as the step hands it to the server.
func (r *Result) outputs(maxReason int) map[string]any {
	d := r.disk
	tried := []any{}
	for _, t := range r.tried[:min(len(r.tried), maxTries)] {
		tried = append(tried, map[string]any{"method": t.method, "error": cut(t.reason, maxReason)})
	}
	reason := ""
	if r.err != nil {
		reason = cut(oneLine(r.err), maxReason)
	}
	return map[string]any{
		"path": cut(d.GetPath(), maxWord), "name": cut(d.GetName(), maxWord), "model": cut(orElse(r.model, d.GetModel()), maxWord), "serial": cut(orElse(r.serial, d.GetSerial()), maxWord),
		"wwn": cut(d.GetWwn(), maxWord), "firmware": cut(orElse(r.firmware, d.GetFirmwareVersion()), maxWord), "bus": cut(d.GetBus(), maxWord), "size_bytes": int64(d.GetSizeBytes()),
		"method": r.method, "level": r.level, "then": r.after, "resumed": r.resumed, "tried": tried, "not_offered": strings.Join(r.notOffered, " "),
		"hidden": cut(strings.Join(r.hidden, "; "), maxReason), "start_time": r.started.UTC().Format(time.RFC3339), "duration_seconds": r.took.Round(time.Millisecond).Seconds(),
		"log_page": cut(r.logPage, maxWord), "verification": r.verified.outputs(), "ok": r.err == nil, "error": reason,
	}
}

// line is the result for people.
func (r *Result) line() string {
	if r.err != nil {
		return fmt.Sprintf("%s: NOT ERASED: %s", describe(r.disk), oneLine(r.err))
	}
	s := fmt.Sprintf("%s: erased by %s (%s) in %s", describe(r.disk), r.method, r.level, r.took.Round(time.Second))
	if v := r.verified; v.kind == verifyNone {
		s += ", not verified"
	} else {
		s += fmt.Sprintf(", verified (%s): %s", v.kind, v.result)
	}
	if len(r.hidden) > 0 {
		s += "; " + strings.Join(r.hidden, "; ")
	}
	return s
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// cut bounds a text from a device or a driver.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= most {
		return s
	}
	s = s[:most-3]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}
