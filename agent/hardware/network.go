package hardware

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

const (
	// networkDuration is how long data goes one way if the step doesn't say.
	networkDuration = 10 * time.Second
	// networkWindow is how long other machines are waited for.
	networkWindow = 5 * time.Minute
	// PeerPort is where machines find each other unless the step says otherwise.
	PeerPort      = 8445
	maxStreams    = 32
	streamsAtOnce = 4
)

// networkTest is one run of test.network.
type networkTest struct {
	s        *Service
	report   *report
	rep      step.Reporter
	duration time.Duration
	streams  int
	seed     uint64
}

// network is the action test.network. With: peers, role, port, window,
// duration, streams, server, fail_on.
func (s *Service) network(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	t := &networkTest{s: s, rep: rep}
	var err error
	if t.duration, err = duration(req, "duration", networkDuration); err != nil {
		return step.Result{}, err
	}
	streams, err := number(req, "streams", streamsAtOnce, 1, maxStreams)
	if err != nil {
		return step.Result{}, err
	}
	t.streams = int(streams)
	if t.seed, err = s.seed(req); err != nil {
		return step.Result{}, err
	}
	t.report = s.newReport("network", t.seed)
	meet, err := t.meeting(ctx, req)
	if err != nil {
		return step.Result{}, err
	}
	before, err := s.links()
	if err != nil {
		return step.Result{}, err
	}
	asked, given := req.With["server"].(bool)
	if url := req.Server["http_url"]; url != "" && (asked || !given) {
		t.againstServer(ctx, req.HTTP, url)
	}
	if meet != nil && ctx.Err() == nil {
		if err := meet.run(ctx); err != nil {
			return step.Result{}, err
		}
	}
	if ctx.Err() != nil {
		return step.Result{}, context.Cause(ctx)
	}
	after, err := s.links()
	if err != nil {
		return step.Result{}, err
	}
	for _, l := range after {
		t.report.add(l.since(before)...)
	}
	return t.report.finish(req, rep)
}

// link is a network interface with hardware behind it.
type link struct {
	name    string
	up      bool
	mbps    int64
	counted map[string]uint64
}

// errorCounters and dropCounters are those of Documentation/networking/statistics.rst
// that say that frames were damaged or lost. Overruns of the ring are drops.
var (
	errorCounters = []string{"rx_errors", "tx_errors", "rx_crc_errors", "rx_frame_errors", "rx_length_errors", "tx_carrier_errors", "tx_aborted_errors", "collisions"}
	dropCounters  = []string{"rx_dropped", "tx_dropped", "rx_missed_errors", "rx_fifo_errors", "rx_over_errors", "tx_fifo_errors"}
)

// links reads every interface with hardware.
func (s *Service) links() ([]link, error) {
	entries, err := os.ReadDir(s.path("sys/class/net"))
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	var all []link
	for _, e := range entries {
		dir := s.path("sys/class/net", e.Name())
		const ethernet = "1"
		if _, err := os.Stat(filepath.Join(dir, "device")); err != nil || readText(filepath.Join(dir, "type")) != ethernet {
			continue
		}
		l := link{name: e.Name(), up: readText(filepath.Join(dir, "carrier")) == "1", counted: map[string]uint64{}}
		// -1 when the driver doesn't know, as virtio's.
		if n, err := strconv.ParseInt(readText(filepath.Join(dir, "speed")), 10, 64); err == nil && n > 0 {
			l.mbps = n
		}
		for _, c := range append(append([]string{}, errorCounters...), dropCounters...) {
			l.counted[c] = readCount(filepath.Join(dir, "statistics", c))
		}
		l.counted["carrier_changes"] = readCount(filepath.Join(dir, "carrier_changes"))
		all = append(all, l)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no network interface to test")
	}
	return all, nil
}

// since reports a link, and what it has counted since an earlier reading.
func (l link) since(before []link) []result {
	var was map[string]uint64
	for _, b := range before {
		if b.name == l.name {
			was = b.counted
		}
	}
	up := result{subject: l.name, measure: "link", unit: unitBool}
	if l.up {
		up.value = 1
	}
	rows := []result{up}
	if l.up && l.mbps > 0 {
		rows = append(rows, result{subject: l.name, measure: "link_speed", value: float64(l.mbps) * 1e6, unit: unitBitsPerSecond})
	}
	errs, what := delta(l.counted, was, errorCounters)
	drops, which := delta(l.counted, was, dropCounters)
	flaps, _ := delta(l.counted, was, []string{"carrier_changes"})
	return append(rows,
		result{subject: l.name, measure: "link_errors", value: errs, unit: unitCount, bad: errs > 0, message: what},
		result{subject: l.name, measure: "link_drops", value: drops, unit: unitCount, message: which},
		result{subject: l.name, measure: "link_changes", value: flaps, unit: unitCount},
	)
}

func delta(now, before map[string]uint64, names []string) (sum float64, what string) {
	var parts []string
	for _, name := range names {
		if n := now[name] - min(before[name], now[name]); n > 0 {
			sum += float64(n)
			parts = append(parts, fmt.Sprintf("%s: %d", name, n))
		}
	}
	return sum, strings.Join(parts, ", ")
}
