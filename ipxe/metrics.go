package ipxe

import "github.com/prometheus/client_golang/prometheus"

// The values of the label result of bedplate_ipxe_scripts_total.
const (
	resultAgent    = "agent"
	resultLive     = "live"
	resultDiscover = "discover"
	resultDisk     = "disk"
	resultMessage  = "message"  // known, with nothing to boot
	resultRefused  = "refused"  // unknown, by policy
	resultIgnored  = "ignored"  // unknown, by policy
	resultForeign  = "foreign"  // asked for from another machine's address
	resultNameless = "nameless" // the request does not say who asks
	resultError    = "error"
)

type metrics struct {
	scripts *prometheus.CounterVec
	files   *prometheus.CounterVec
	bytes   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		scripts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_ipxe_scripts_total",
			Help: "Boot scripts asked for, by boot loader and by what they told the machine.",
		}, []string{"loader", "result"}),
		files: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_ipxe_files_total",
			Help: "Boot files, kernels and initramfs asked for over HTTP, by kind and result.",
		}, []string{"kind", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_ipxe_sent_bytes_total",
			Help: "Bytes of boot files, kernels and initramfs sent over HTTP, by kind.",
		}, []string{"kind"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.scripts, m.files, m.bytes} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
