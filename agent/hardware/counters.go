package hardware

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// counters is what the kernel has counted of a machine's errors.
type counters struct {
	// corrected and uncorrected errors of memory, by place: mc0, or mc0/dimm3
	// with its label (Documentation/admin-guide/ras.rst).
	corrected, uncorrected map[string]uint64
	// throttled is how often a core or package was slowed down for its heat.
	throttled uint64
	// machineChecks are exceptions (MCE of /proc/interrupts).
	machineChecks uint64
}

func (s *Service) path(elem ...string) string {
	return filepath.Join(append([]string{s.Root}, elem...)...)
}

func (s *Service) readCounters() counters {
	c := counters{corrected: map[string]uint64{}, uncorrected: map[string]uint64{}}
	for _, dir := range glob(s.path("sys/devices/system/edac/mc/mc*")) {
		mc := filepath.Base(dir)
		count(c.corrected, mc, dir, "ce_count")
		count(c.uncorrected, mc, dir, "ue_count")
		for _, dimm := range append(glob(filepath.Join(dir, "dimm*")), glob(filepath.Join(dir, "rank*"))...) {
			name := mc + "/" + filepath.Base(dimm)
			if label := readText(filepath.Join(dimm, "dimm_label")); label != "" {
				name += " (" + label + ")"
			}
			count(c.corrected, name, dimm, "dimm_ce_count")
			count(c.uncorrected, name, dimm, "dimm_ue_count")
		}
	}
	for _, pattern := range []string{"core_throttle_count", "package_throttle_count"} {
		for _, f := range glob(s.path("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle", pattern)) {
			c.throttled += readCount(f)
		}
	}
	c.machineChecks = interrupts(s.path("proc/interrupts"), "MCE")
	return c
}

func glob(pattern string) []string {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil // the patterns are ours
	}
	return names
}

func count(into map[string]uint64, name, dir, file string) {
	if n, err := strconv.ParseUint(readText(filepath.Join(dir, file)), 10, 64); err == nil {
		into[name] = n
	}
}

func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func readCount(path string) uint64 {
	n, _ := strconv.ParseUint(readText(path), 10, 64)
	return n
}

// interrupts adds up one row of /proc/interrupts over all CPUs.
func interrupts(path, row string) uint64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, rest, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		if !ok || name != row {
			continue
		}
		var sum uint64
		for _, w := range strings.Fields(rest) {
			n, err := strconv.ParseUint(w, 10, 64)
			if err != nil {
				break
			}
			sum += n
		}
		return sum
	}
	return 0
}

// hottest is the highest temperature that any sensor reports, in °C; false
// when there is none.
func (s *Service) hottest() (float64, bool) {
	var most float64
	seen := false
	for _, pattern := range []string{"sys/class/thermal/thermal_zone*/temp", "sys/class/hwmon/hwmon*/temp*_input"} {
		for _, f := range glob(s.path(pattern)) {
			milli, err := strconv.ParseInt(readText(f), 10, 64)
			if c := float64(milli) / 1000; err == nil && c > -40 && c < 200 && (!seen || c > most) {
				most, seen = c, true
			}
		}
	}
	return most, seen
}

// watch looks at counters, temperatures and the kernel's log while a test runs.
type watch struct {
	s       *Service
	before  counters
	log     *kernelLog
	halt    func()
	mu      sync.Mutex
	hottest float64
	seen    bool
}

// sampling is how often temperatures are read.
const sampling = 2 * time.Second

func (s *Service) watch() *watch {
	w := &watch{s: s, before: s.readCounters(), log: openKernelLog(s.path("dev/kmsg"))}
	w.sample()
	w.halt = every(sampling, w.sample)
	return w
}

func (w *watch) sample() {
	c, ok := w.s.hottest()
	w.mu.Lock()
	defer w.mu.Unlock()
	if ok && (!w.seen || c > w.hottest) {
		w.hottest, w.seen = c, true
	}
}

// stop ends the watch and returns what changed.
func (w *watch) stop(rep step.Reporter) []result {
	w.halt()
	w.sample()
	after := w.s.readCounters()
	rows := after.since(w.before)
	if w.seen {
		rows = append(rows, result{subject: "machine", measure: "temperature_max", value: w.hottest, unit: unitCelsius})
	}
	lines := w.log.close(isHardwareError)
	for _, l := range lines {
		rep.Log(step.Agent, "kernel: "+l)
	}
	row := result{subject: "machine", measure: "kernel_hardware_errors", value: float64(len(lines)), unit: unitCount}
	if len(lines) > 0 {
		row.message = lines[0]
	}
	return append(rows, row)
}

// since returns what was counted since an earlier reading. Errors that were
// corrected are counted and no fault; those that were not are.
func (c counters) since(before counters) []result {
	var rows []result
	for _, kind := range []struct {
		measure     string
		now, before map[string]uint64
		bad         bool
	}{{"edac_corrected", c.corrected, before.corrected, false}, {"edac_uncorrected", c.uncorrected, before.uncorrected, true}} {
		if len(kind.now) == 0 {
			continue // no driver for this memory controller
		}
		var sum uint64
		var where []string
		for _, name := range slices.Sorted(maps.Keys(kind.now)) {
			n := kind.now[name] - min(kind.before[name], kind.now[name])
			if !strings.Contains(name, "/") {
				sum += n
			} else if n > 0 {
				where = append(where, fmt.Sprintf("%s: %d", name, n))
			}
		}
		rows = append(rows, result{subject: "memory", measure: kind.measure, value: float64(sum), unit: unitCount, bad: kind.bad && sum > 0, message: strings.Join(where, ", ")})
	}
	checks := c.machineChecks - min(before.machineChecks, c.machineChecks)
	row := result{subject: "cpu", measure: "machine_checks", value: float64(checks), unit: unitCount, bad: checks > 0}
	if row.bad {
		row.message = "the processor reported errors of the hardware; see the kernel's log"
	}
	rows = append(rows, row)
	return append(rows, result{subject: "cpu", measure: "throttled", value: float64(c.throttled - min(before.throttled, c.throttled)), unit: unitCount})
}
