package fleet

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	polls    *prometheus.CounterVec
	seconds  prometheus.Histogram
	writes   prometheus.Counter
	overdue  prometheus.Gauge
	members  prometheus.GaugeFunc
	answered prometheus.GaugeFunc
}

func newMetrics(r prometheus.Registerer, counts func() (all, answering int)) (metrics, error) {
	m := metrics{
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_bmc_polls_total", Help: "Polls of BMCs for power and health, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bedplate_bmc_poll_seconds", Help: "How long polls took.",
			Buckets: []float64{.01, .03, .1, .3, 1, 3, 10, 30},
		}),
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_bmc_poll_writes_total", Help: "Polls that found something that was written to the store.",
		}),
		overdue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bedplate_bmc_poll_delay_seconds", Help: "How late the newest poll began.",
		}),
		members: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bedplate_bmc_machines", Help: "Machines that have a BMC.",
		}, func() float64 { all, _ := counts(); return float64(all) }),
		answered: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bedplate_bmc_answering", Help: "BMCs that have answered within the last three poll intervals.",
		}, func() float64 { _, answering := counts(); return float64(answering) }),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.polls, m.seconds, m.writes, m.overdue, m.members, m.answered} {
		if err := r.Register(c); err != nil {
			return m, fmt.Errorf("registering metrics of BMCs: %w", err)
		}
	}
	return m, nil
}

func (m metrics) polled(result string, took time.Duration) {
	m.polls.WithLabelValues(result).Inc()
	m.seconds.Observe(took.Seconds())
}
