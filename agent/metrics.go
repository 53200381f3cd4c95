package agent

import (
	"fmt"
	"io"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// metrics are what an agent counts. Labels are bounded: no pod, no user.
type metrics struct {
	set      *vm.Set
	up, down *vm.Counter
	failed   *vm.Counter
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{set: vm.NewSet()}
	m.up = m.set.NewCounter(`culvert_agent_payload_bytes_total{direction="up"}`)
	m.down = m.set.NewCounter(`culvert_agent_payload_bytes_total{direction="down"}`)
	m.failed = m.set.NewCounter(`culvert_agent_relay_dial_failures_total`)
	m.set.NewGauge(`culvert_agent_streams`, func() float64 { return float64(a.running.Load()) })
	m.set.NewGauge(`culvert_agent_tunnels`, func() float64 { return float64(a.tunnels.Load()) })
	m.set.NewGauge(`culvert_agent_relays`, func() float64 { return float64(len(a.cfg.Relays)) })
	m.set.NewGauge(`culvert_agent_pods`, func() float64 { return float64(len(a.cfg.Pods.List())) })
	return m
}

// stream counts a stream that has ended.
func (m *metrics) stream(code stream.Code, stats forward.Stats) {
	name := code.String()
	if code > stream.NameTaken {
		name = "unknown" // a peer may send any number, and each would be a series
	}
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_agent_streams_total{code=%q}`, name)).Inc()
	m.up.Add(int(stats.AtoB))
	m.down.Add(int(stats.BtoA))
}

func (m *metrics) relayFailed() { m.failed.Inc() }

// WriteMetrics writes all metrics in the text format of Prometheus.
func (a *Agent) WriteMetrics(w io.Writer) { a.metrics.set.WritePrometheus(w) }
