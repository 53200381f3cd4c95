package main

import (
	"crypto/tls"
	"io"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
)

// metrics are what the process counts beside its rooms.
type metrics struct{ set *vm.Set }

func newMetrics() *metrics { return &metrics{set: vm.NewSet()} }

// certificate shows when the serving certificate ends, wherever it comes from; 0
// if there is none.
func (m *metrics) certificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) {
	m.set.NewGauge(`culvert_relay_certificate_not_after_seconds`, func() float64 {
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
	seconds := m.set.NewHistogram(`culvert_relay_kubectl_stall_seconds`)
	resets := m.set.NewCounter(`culvert_relay_kubectl_stall_resets_total`)
	return kubectl.Hooks{
		Stalled:    stalls.Inc,
		Unstalled:  func(waited time.Duration) { seconds.Update(waited.Seconds()) },
		StallReset: resets.Inc,
	}
}

func (p *parts) writeMetrics(w io.Writer) {
	p.srv.WriteMetrics(w)
	if p.kube != nil {
		p.kube.WriteMetrics(w)
	}
	if p.policy != nil {
		p.policy.WriteMetrics(w)
	}
	p.audit.WriteMetrics(w)
	p.metrics.set.WritePrometheus(w)
}
