package bench

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/dial"
	bmcfleet "github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/trust"
)

const (
	// bmcs is how many are polled.
	bmcs = 500
	// bmcInterval is the time between two polls of one BMC: shorter than the
	// server's minute, so that there is much to measure in little time.
	bmcInterval = 10 * time.Second
	// bmcSettle is for the first contact of each: a TLS handshake and a login.
	bmcSettle = 60 * time.Second
	// bmcTime is how long is measured.
	bmcTime = 40 * time.Second
)

// BenchmarkBMCPolls polls the power and health of 500 simulated BMCs over
// Redfish and TLS, which run in other processes: first all of them well, then
// one in ten dead. What the dead ones cost the others is to be seen in the
// polls that the living get, and how late those begin.
//
// It runs for a fixed time, whatever -benchtime says: one round is one result.
func BenchmarkBMCPolls(b *testing.B) {
	for _, tt := range []struct {
		name string
		dead int
	}{{"all well", 0}, {"one in ten dead", bmcs / 10}} {
		b.Run(tt.name, func(b *testing.B) { benchPolls(b, tt.dead) })
	}
}

func benchPolls(b *testing.B, dead int) {
	targets := append(startFleet(b, "well", bmcs-dead), startFleet(b, "dead", dead, "--faults", "dead")...)
	st, err := bolt.Open(filepath.Join(b.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	db := &resource.DB{Store: st, Now: time.Now, NewUID: uuid.NewString}
	for _, t := range targets {
		m := &pb.Machine{Metadata: &pb.Metadata{Name: t.name}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{Address: t.address, Username: "admin", PasswordSecret: "all", Protocol: "redfish"}}}
		if _, err := resource.Create(b.Context(), db, m); err != nil {
			b.Fatal(err)
		}
	}
	before := resident()
	registry := prometheus.NewRegistry()
	f, err := newPoller(b, db, registry)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	time.Sleep(bmcSettle)
	first, cpu := gathered(b, registry), cpuTime()
	time.Sleep(bmcTime)
	last, used := gathered(b, registry), cpuTime()-cpu
	grown := resident() - before
	cancel()
	if err := <-done; err != nil && ctx.Err() == nil {
		b.Fatal(err)
	}
	polls := last["bedplate_bmc_polls_total/ok"] - first["bedplate_bmc_polls_total/ok"]
	living := float64(bmcs - dead)
	b.ReportMetric(0, "ns/op") // nobody waits for a poll
	b.ReportMetric(polls/living/(bmcTime.Seconds()/bmcInterval.Seconds()), "of-wanted-polls")
	b.ReportMetric(used.Seconds()/bmcTime.Seconds()*100, "%cpu")
	b.ReportMetric(float64(used.Microseconds())/1000/polls, "cpu-ms/poll")
	b.ReportMetric(float64(grown)/(1<<20), "MiB")
	b.ReportMetric(last["bedplate_bmc_sessions"], "sessions")
	b.ReportMetric(last["bedplate_bmc_poll_delay_seconds"]*1000, "ms-late")
	b.ReportMetric(last["bedplate_bmc_circuits_open"], "circuits-open")
	b.ReportMetric(last["bedplate_bmc_poll_writes_total"]-first["bedplate_bmc_poll_writes_total"], "writes")
}

func newPoller(b *testing.B, db *resource.DB, registry *prometheus.Registry) (*bmcfleet.Fleet, error) {
	b.Helper()
	sealer, err := trust.OpenSealer(b.TempDir())
	if err != nil {
		return nil, err
	}
	return bmcfleet.New(b.Context(), bmcfleet.Config{
		DB: db, Sealer: sealer, PollInterval: bmcInterval, Now: time.Now, Rand: rand.Reader,
		Secret: func(context.Context, string) (map[string]string, int64, error) {
			return map[string]string{"password": "bench"}, 1, nil
		},
		Observe: func(machine.Sighting) {},
		Event: func(kind, name, reason, message string, _ bool) store.Op {
			return store.Put("/events/"+uuid.NewString(), []byte(kind+name+reason+message))
		},
		Logger: slog.New(slog.DiscardHandler), Registry: registry,
	}, func(pinned func(bmc.Target, bmc.Pin)) (*bmc.Pool, error) {
		return bmc.NewPool(bmc.Config{
			Dial: dial.Dialer{Now: time.Now}.Dial, Now: time.Now, Rand: mathrand.Float64, Pinned: pinned,
			Logger: slog.New(slog.DiscardHandler), Registerer: registry,
		})
	})
}

// target is one simulated BMC.
type target struct{ name, address string }

// startFleet starts simulated BMCs in a process of their own.
func startFleet(b *testing.B, name string, count int, args ...string) []target {
	b.Helper()
	if count == 0 {
		return nil
	}
	cmd := exec.Command("../../bin/bedplate", append([]string{"lab", "fleet", "--count", fmt.Sprint(count), "--protocols", "redfish", "--password", "bench"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Skipf("%v: run `make bench`, which builds it", err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was interrupted
	})
	var all []target
	lines := bufio.NewScanner(out)
	for len(all) < count && lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 1 && strings.HasPrefix(f[1], "https://") {
			all = append(all, target{name + "-" + f[0], strings.TrimPrefix(f[1], "https://")})
		}
	}
	if len(all) < count {
		b.Fatalf("%d of %d simulated BMCs were started", len(all), count)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
	return all
}

// gathered returns the values of all metrics; those with a label `result` by that as well.
func gathered(b *testing.B, g prometheus.Gatherer) map[string]float64 {
	b.Helper()
	families, err := g.Gather()
	if err != nil {
		b.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name, value := f.GetName(), m.GetCounter().GetValue()+m.GetGauge().GetValue()
			out[name] += value
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" {
					out[name+"/"+l.GetValue()] += value
				}
			}
		}
	}
	return out
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is how much memory this process has, without what is only garbage.
func resident() int64 {
	runtime.GC()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if n, _ := fmt.Sscan(string(text), &size, &pages); n != 2 {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
