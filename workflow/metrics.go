package workflow

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

type metrics struct {
	workflows *prometheus.CounterVec
	steps     *prometheus.CounterVec
	overdue   *prometheus.CounterVec
	stale     prometheus.Counter
	sessions  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (metrics, error) {
	m := metrics{
		workflows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_workflow_ended_total", Help: "Workflows that have ended, by how.",
		}, []string{"state"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_workflow_attempts_total", Help: "Attempts of steps that have ended, by action and how.",
		}, []string{"action", "state"}),
		overdue: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bedplate_workflow_overdue_total", Help: "Waits that took longer than they may, by what was waited for.",
		}, []string{"wait"}),
		stale: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bedplate_workflow_stale_events_total", Help: "Events of agents that were passed over because they were known or their run was over.",
		}),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bedplate_workflow_agents", Help: "Agents that are connected.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.workflows, m.steps, m.overdue, m.stale, m.sessions} {
		if err := reg.Register(c); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m metrics) ended(s pb.WorkflowState) {
	m.workflows.WithLabelValues(strings.ToLower(strings.TrimPrefix(s.String(), "WORKFLOW_"))).Inc()
}

// step counts an attempt. The action is one of the table's: templates with
// others are refused.
func (m metrics) step(action string, s pb.StepState) {
	m.steps.WithLabelValues(action, strings.ToLower(strings.TrimPrefix(s.String(), "STEP_"))).Inc()
}
