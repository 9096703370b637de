package metadata

import "github.com/prometheus/client_golang/prometheus"

// The values of the label result of bedplate_metadata_requests_total.
const (
	resultOK       = "ok"
	resultNotFound = "not_found" // unknown key, address or path
	resultRefused  = "refused"   // another machine's key, or a request that is not right
	resultError    = "error"
)

type metrics struct{ requests *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bedplate_metadata_requests_total",
		Help: "Requests of machines for what they are, and reports of first boots, by kind and result.",
	}, []string{"kind", "result"})}
	if reg == nil {
		return m, nil
	}
	return m, reg.Register(m.requests)
}
