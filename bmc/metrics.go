package bmc

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The values of the label result of bedplate_bmc_calls_total and bedplate_bmc_logins_total.
const (
	resultOK          = "ok"
	resultUnreachable = "unreachable"
	resultTimeout     = "timeout"
	resultAuth        = "auth"
	resultCertificate = "certificate"
	resultCircuit     = "circuit_open"
	resultBusy        = "busy"
	resultFailing     = "failing"     // an error of the BMC's own
	resultIgnored     = "ignored"     // accepted and not done
	resultPower       = "power_state" // not in the state it was brought to
	resultUnsupported = "unsupported"
	resultCancelled   = "cancelled"
	resultError       = "error"
)

type metrics struct {
	calls    *prometheus.CounterVec
	duration prometheus.Histogram
	logins   *prometheus.CounterVec
	retries  prometheus.Counter
	opened   prometheus.Counter
	sessions prometheus.Gauge
	streams  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, open func() int) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_bmc_calls_total",
			Help: "Calls to BMCs that have ended, retries included, by result.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bedplate_bmc_call_duration_seconds",
			Help:    "Time from a call's wish to its end, waiting and retries included.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 9),
		}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_bmc_logins_total",
			Help: "Logins to BMCs, by result.",
		}, []string{"result"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_bmc_retries_total",
			Help: "Tries of calls after the first.",
		}),
		opened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_bmc_circuits_opened_total",
			Help: "Times that a BMC failed so often that it was left alone for a while.",
		}),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bedplate_bmc_sessions",
			Help: "Sessions with BMCs that are open.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bedplate_bmc_streams",
			Help: "BMCs whose events are listened to.",
		}),
	}
	for _, result := range []string{
		resultOK, resultUnreachable, resultTimeout, resultAuth, resultCertificate, resultCircuit, resultBusy, resultFailing,
		resultIgnored, resultPower, resultUnsupported, resultCancelled, resultError,
	} {
		m.calls.WithLabelValues(result)
		m.logins.WithLabelValues(result)
	}
	if reg == nil {
		return m, nil
	}
	circuits := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bedplate_bmc_circuits_open",
		Help: "BMCs that are left alone for a while.",
	}, func() float64 { return float64(open()) })
	for _, c := range []prometheus.Collector{m.calls, m.duration, m.logins, m.retries, m.opened, m.sessions, m.streams, circuits} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) called(err error, took time.Duration) {
	m.calls.WithLabelValues(resultOf(err)).Inc()
	m.duration.Observe(took.Seconds())
}

func (m *metrics) dialled(err error) { m.logins.WithLabelValues(resultOf(err)).Inc() }

// resultOf names an error in a word.
func resultOf(err error) string {
	for _, r := range []struct {
		kind error
		name string
	}{
		{nil, resultOK},
		{ErrCircuitOpen, resultCircuit},
		{ErrAuth, resultAuth},
		{ErrCertificate, resultCertificate},
		{ErrIgnored, resultIgnored},
		{ErrPowerState, resultPower},
		{ErrUnsupported, resultUnsupported},
		{ErrBusy, resultBusy},
		{ErrFailing, resultFailing},
		{ErrUnreachable, resultUnreachable},
		{context.DeadlineExceeded, resultTimeout},
		{context.Canceled, resultCancelled},
		{ErrClosed, resultCancelled},
	} {
		if r.kind == nil && err == nil || r.kind != nil && errors.Is(err, r.kind) {
			return r.name
		}
	}
	return resultError
}
