package tftp

import "github.com/prometheus/client_golang/prometheus"

// The values of the label result of bedplate_tftp_requests_total.
const (
	resultOK       = "ok"
	resultAborted  = "aborted"   // the client said ERROR: a probe for the size, or a user's key press
	resultNotFound = "not_found" // no such file for this client
	resultRefused  = "refused"   // a write, or a name that cannot be served
	resultBusy     = "busy"      // over the bound on transfers
	resultTimeout  = "timeout"   // the client stopped answering, or was too slow
	resultError    = "error"     // everything else
)

type metrics struct {
	requests  *prometheus.CounterVec
	malformed prometheus.Counter
	sent      prometheus.Counter
	transfers prometheus.Gauge
	duration  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_tftp_requests_total",
			Help: "Requests answered, by result.",
		}, []string{"result"}),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_tftp_malformed_total",
			Help: "Datagrams on the TFTP port that were no request.",
		}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_tftp_sent_bytes_total",
			Help: "Bytes of files read for clients.",
		}),
		transfers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bedplate_tftp_transfers",
			Help: "Transfers under way.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bedplate_tftp_transfer_duration_seconds",
			Help:    "Time from request to last acknowledgement of transfers that completed.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 8),
		}),
	}
	for _, result := range []string{resultOK, resultAborted, resultNotFound, resultRefused, resultBusy, resultTimeout, resultError} {
		m.requests.WithLabelValues(result)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.malformed, m.sent, m.transfers, m.duration} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
