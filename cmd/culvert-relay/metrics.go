package main

import (
	"crypto/tls"
	"io"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/cmd/internal/exposition"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/measure"
)

// metrics are what the process counts beside its rooms.
type metrics struct{ set *vm.Set }

func newMetrics() *metrics { return &metrics{set: vm.NewSet()} }

// certificate shows when the serving certificate ends, wherever it comes from; 0
// if there is none.
func (m *metrics) certificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) {
	m.set.NewGauge(`culvert_relay_certificate_expiry_timestamp_seconds`, func() float64 {
		cert, err := get(&tls.ClientHelloInfo{})
		if err != nil || cert.Leaf == nil {
			return 0
		}
		return float64(cert.Leaf.NotAfter.Unix())
	})
}

// kubectl counts sessions of kubectl that had to wait for a pod that took nothing.
func (m *metrics) kubectl() kubectl.Hooks {
	stalls := m.set.NewCounter(`culvert_relay_kubectl_stalls_total`)
	took := measure.NewDurations("culvert_relay_kubectl_stall_duration_seconds", "")
	m.set.RegisterMetricsWriter(took.Write)
	resets := m.set.NewCounter(`culvert_relay_kubectl_stall_resets_total`)
	return kubectl.Hooks{
		Stalled:    stalls.Inc,
		Unstalled:  func(waited time.Duration) { took.Observe("", waited) },
		StallReset: resets.Inc,
	}
}

// page is what /metrics answers.
func (p *parts) page() *exposition.Page {
	page := &exposition.Page{Known: exposition.Relay(), Version: p.cfg.Version, Rooms: []func(io.Writer){p.srv.WriteMetrics}}
	if p.kube != nil {
		page.Rooms = append(page.Rooms, p.kube.WriteMetrics)
	}
	if p.policy != nil {
		page.Rooms = append(page.Rooms, p.policy.WriteMetrics)
	}
	page.Rooms = append(page.Rooms, p.audit.WriteMetrics, p.metrics.set.WritePrometheus)
	return page
}
