package agent

import (
	"fmt"
	"io"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/forward"
)

// metrics are what an agent counts. Labels are bounded: no pod, no user.
type metrics struct {
	set      *vm.Set
	up, down *vm.Counter
	failed   *vm.Counter
	lookups  *vm.Counter // that failed
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{set: vm.NewSet()}
	m.up = m.set.NewCounter(`culvert_agent_payload_bytes_total{direction="up"}`)
	m.down = m.set.NewCounter(`culvert_agent_payload_bytes_total{direction="down"}`)
	m.failed = m.set.NewCounter(`culvert_agent_relay_dial_failures_total`)
	m.lookups = m.set.NewCounter(`culvert_agent_relay_lookup_failures_total`)
	m.set.NewGauge(`culvert_agent_relay_addresses`, func() float64 { return float64(a.keepers.Load()) })
	m.set.NewGauge(`culvert_agent_streams`, func() float64 { return float64(a.running.Load()) })
	m.set.NewGauge(`culvert_agent_api_streams`, func() float64 { return float64(a.apis.Load()) })
	m.set.NewGauge(`culvert_agent_tunnels`, func() float64 { return float64(a.tunnels.Load()) })
	m.set.NewGauge(`culvert_agent_relays_missing`, func() float64 { return float64(a.fleet.missing()) })
	m.set.NewGauge(`culvert_agent_relays`, func() float64 { return float64(len(a.cfg.Relays)) })
	m.set.NewGauge(`culvert_agent_pods`, func() float64 { return float64(len(a.cfg.Pods.List())) })
	m.set.NewGauge(`culvert_agent_pods_ready`, func() float64 {
		if a.cfg.Pods.Ready() != nil {
			return 0
		}
		return 1
	})
	return m
}

// stream counts a stream that has ended.
func (m *metrics) stream(err error, stats forward.Stats) {
	code, _ := outcome(err)
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_agent_streams_total{code=%q}`, code)).Inc()
	m.up.Add(int(stats.AtoB))
	m.down.Add(int(stats.BtoA))
}

func (m *metrics) relayFailed() { m.failed.Inc() }

func (m *metrics) lookupFailed() { m.lookups.Inc() }

// WriteMetrics writes all metrics in the text format of Prometheus.
func (a *Agent) WriteMetrics(w io.Writer) { a.metrics.set.WritePrometheus(w) }
