package bolt

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/store"
)

// metrics of the store. The zero value keeps none.
type metrics struct {
	now        func() time.Time
	registerer prometheus.Registerer
	all        []prometheus.Collector
	txns       *prometheus.CounterVec
	commits    prometheus.Histogram
	batch      prometheus.Histogram
}

func newMetrics(opts Options, s *Store) (metrics, error) {
	r := opts.Registerer
	if r == nil {
		return metrics{}, nil
	}
	m := metrics{
		now:        opts.Now,
		registerer: r,
		txns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_store_transactions_total",
			Help: "Transactions by result: committed, conflict or failed.",
		}, []string{"result"}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bedplate_store_commit_seconds",
			Help:    "Time to make a batch of transactions durable.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bedplate_store_batch_transactions",
			Help:    "Transactions that were made durable together.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
	}
	m.all = []prometheus.Collector{
		m.txns, m.commits, m.batch,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bedplate_store_revision",
			Help: "Newest revision of the store.",
		}, func() float64 { return float64(s.hub.revision()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bedplate_store_watchers",
			Help: "Watches that are open.",
		}, func() float64 { return float64(s.hub.watching()) }),
	}
	for i, c := range m.all {
		if err := r.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return metrics{}, fmt.Errorf("registering the store's metrics: %w", err)
		}
	}
	return m, nil
}

func (m metrics) unregister() {
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

// begin starts the clock for a batch; the function it returns stops it.
func (m metrics) begin() func(txns int, err error) {
	if m.registerer == nil {
		return func(int, error) {}
	}
	begun := m.now()
	return func(txns int, err error) {
		if err == nil {
			m.commits.Observe(m.now().Sub(begun).Seconds())
			m.batch.Observe(float64(txns))
		}
	}
}

func (m metrics) txn(err error) {
	if m.registerer == nil {
		return
	}
	result := "committed"
	switch {
	case errors.Is(err, store.ErrConflict):
		result = "conflict"
	case err != nil:
		result = "failed"
	}
	m.txns.WithLabelValues(result).Inc()
}

func (h *hub) watching() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}
