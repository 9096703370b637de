package media

import "github.com/prometheus/client_golang/prometheus"

// The values of the label result of bedplate_media_requests_total.
const (
	resultOK       = "ok"
	resultNotFound = "not_found" // no such medium, or a wrong key
	resultGone     = "gone"      // a medium that is not good any more
	resultError    = "error"
)

type metrics struct {
	requests *prometheus.CounterVec
	bytes    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_media_requests_total",
			Help: "Requests for boot media, of which a BMC makes many for one boot, by result.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_media_sent_bytes_total",
			Help: "Bytes of boot media sent over HTTP.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.bytes} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
