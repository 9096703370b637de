package lifecycle

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// metrics say how long machines stay in each state.
type metrics struct {
	seconds *prometheus.HistogramVec
	entered *prometheus.CounterVec
}

// newMetrics registers the metrics with reg; nil: they are kept, and shown to nobody.
func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bedplate_lifecycle_state_seconds", Help: "Time that machines spent in a state, when they left it.",
			// From a warm provisioning to a machine that was active for a quarter.
			Buckets: []float64{1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600, 90 * 24 * 3600},
		}, []string{"state"}),
		entered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_lifecycle_state_entered_total", Help: "How often machines came into a state.",
		}, []string{"state"}),
	}
	if reg != nil {
		reg.MustRegister(m.seconds, m.entered)
	}
	return m
}

// moved counts a machine's change of state, if it is one.
func (m metrics) moved(before, after *pb.Machine, now time.Time) {
	from, to := before.GetStatus().GetState(), after.GetStatus().GetState()
	if from == to {
		return
	}
	m.entered.WithLabelValues(stateName(to)).Inc()
	if since := before.GetStatus().GetStateTime(); since != nil {
		m.seconds.WithLabelValues(stateName(from)).Observe(now.Sub(since.AsTime()).Seconds())
	}
}
