package api

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	denied   *prometheus.CounterVec
}

// newMetrics registers the package's metrics; without a registerer they are
// counted for nobody.
func newMetrics(r prometheus.Registerer, streams func() float64) (metrics, error) {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_api_requests_total",
			Help: "Calls of the API that have ended, by gRPC method and status code; REST calls are counted as the gRPC call they are.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "bedplate_api_request_duration_seconds",
			Help:    "Duration of calls of the API, streams included, by gRPC method.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"method"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_api_denied_total",
			Help: "Calls of the API that were refused for want of a good token (token) or of a role that may make them (role).",
		}, []string{"reason"}),
	}
	if r == nil {
		return m, nil
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bedplate_api_streams",
		Help: "Streams of the API that are open: watches, follows and uploads.",
	}, streams)
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.denied, open} {
		if err := r.Register(c); err != nil {
			return m, fmt.Errorf("registering metrics of the API: %w", err)
		}
	}
	return m, nil
}
