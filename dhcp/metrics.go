package dhcp

import (
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what the server does. Labels are message types, results and
// the names of networks: few, and none that a packet can make up.
type metrics struct {
	requests *prometheus.CounterVec
	probes   *prometheus.CounterVec
	puts     prometheus.Histogram
	putFails prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, networks func() []NetworkStatus) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_dhcp_requests_total",
			Help: "DHCP messages received, by message type and by what became of them.",
		}, []string{"type", "result"}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_dhcp_probes_total",
			Help: "Pool addresses probed by ICMP echo before they were offered, by result: free or used.",
		}, []string{"result"}),
		puts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bedplate_dhcp_lease_store_seconds",
			Help:    "Time to make a lease durable.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}),
		putFails: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_dhcp_lease_store_failures_total",
			Help: "Leases that couldn't be made durable; their clients weren't answered.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.probes, m.puts, m.putFails, networkCollector{networks}} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering DHCP metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) count(kind dhcpv4.MessageType, r result) {
	m.requests.WithLabelValues(kindLabel(kind), string(r)).Inc()
}

// kindLabel returns the message type in lower case; the codec's String makes up
// names for types that don't exist.
func kindLabel(kind dhcpv4.MessageType) string {
	switch kind {
	case dhcpv4.MessageTypeDiscover:
		return "discover"
	case dhcpv4.MessageTypeRequest:
		return "request"
	case dhcpv4.MessageTypeDecline:
		return "decline"
	case dhcpv4.MessageTypeRelease:
		return "release"
	case dhcpv4.MessageTypeInform:
		return "inform"
	default:
		return "none"
	}
}

func (m *metrics) probed(used bool) {
	if used {
		m.probes.WithLabelValues("used").Inc()
		return
	}
	m.probes.WithLabelValues("free").Inc()
}

func (m *metrics) stored(d time.Duration, err error) {
	m.puts.Observe(d.Seconds())
	if err != nil {
		m.putFails.Inc()
	}
}

// networkCollector counts leases when it is asked.
type networkCollector struct{ networks func() []NetworkStatus }

var (
	leasesDesc = prometheus.NewDesc("bedplate_dhcp_leases", "Leases in force.", []string{"network"}, nil)
	poolDesc   = prometheus.NewDesc("bedplate_dhcp_pool_addresses", "Addresses in the dynamic ranges.", []string{"network"}, nil)
)

// Describe is part of prometheus.Collector.
func (c networkCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- leasesDesc
	ch <- poolDesc
}

// Collect is part of prometheus.Collector.
func (c networkCollector) Collect(ch chan<- prometheus.Metric) {
	for _, n := range c.networks() {
		ch <- prometheus.MustNewConstMetric(leasesDesc, prometheus.GaugeValue, float64(n.Leases), n.Name)
		ch <- prometheus.MustNewConstMetric(poolDesc, prometheus.GaugeValue, float64(n.PoolSize), n.Name)
	}
}
