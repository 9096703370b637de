package job

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

type metrics struct {
	jobs     *prometheus.CounterVec
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	running  prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	m := metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_bmc_jobs_total", Help: "Jobs that have ended, by state.",
		}, []string{"state"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_bmc_operations_total", Help: "Tries of operations of jobs, by operation and result.",
		}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bedplate_bmc_operation_seconds", Help: "How long tries of operations took.",
			Buckets: []float64{.1, .3, 1, 3, 10, 30, 100, 300, 1000, 3000},
		}, []string{"operation"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bedplate_bmc_operations_running", Help: "Operations that are under way.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.jobs, m.attempts, m.seconds, m.running} {
		if err := r.Register(c); err != nil {
			return m, fmt.Errorf("registering metrics of jobs: %w", err)
		}
	}
	return m, nil
}

func (m metrics) observe(operation string, err error, took time.Duration) {
	m.attempts.WithLabelValues(operation, resultName(err)).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}

// resultName sorts errors into a bounded number of labels.
func resultName(err error) string {
	if err == nil {
		return "ok"
	}
	for _, k := range []struct {
		err  error
		name string
	}{
		{bmc.ErrUnsupported, "unsupported"}, {bmc.ErrIgnored, "ignored"}, {bmc.ErrAuth, "auth"}, {bmc.ErrPermission, "permission"},
		{bmc.ErrCertificate, "certificate"}, {bmc.ErrCircuitOpen, "circuit_open"}, {bmc.ErrBusy, "busy"},
		{bmc.ErrUnreachable, "unreachable"}, {bmc.ErrPowerState, "power_state"},
	} {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return "other"
}

// kindName is the field of the operation's oneof, such as boot_device.
func kindName(o *pb.Operation) string {
	m := o.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("operation")); fd != nil {
		return string(fd.Name())
	}
	return "none"
}
