package agent

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/measure"
)

// metrics are what an agent counts. Labels are bounded: no pod, no user.
type metrics struct {
	set      *vm.Set
	up, down *vm.Counter
	failed   *vm.Counter
	lookups  *vm.Counter // that failed
	opened   *vm.Counter // tunnels
	renewals [2]*vm.Counter
	dialled  *measure.Durations

	mu      sync.Mutex
	tunnels map[*uplink]struct{} // registered ones
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{
		set: vm.NewSet(), tunnels: make(map[*uplink]struct{}),
		dialled: measure.NewDurations("culvert_agent_pod_dial_duration_seconds", ""),
	}
	m.set.RegisterMetricsWriter(m.dialled.Write)
	m.opened = m.set.NewCounter(`culvert_agent_tunnels_opened_total`)
	for i, result := range []string{"ok", "failed"} {
		m.renewals[i] = m.set.NewCounter(fmt.Sprintf(`culvert_agent_renewals_total{result=%q}`, result))
	}
	m.set.NewGauge(`culvert_agent_tunnel_round_trip_seconds`, func() float64 { return m.roundTrip().Seconds() })
	m.set.NewGauge(`culvert_agent_certificate_expiry_timestamp_seconds`, m.expiry)
	m.set.NewGauge(`culvert_agent_draining`, func() float64 {
		if a.isLeaving() {
			return 1
		}
		return 0
	})
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
	m.set.RegisterMetricsWriter(func(w io.Writer) { a.cfg.Tunnel.Memory.WriteMetrics(w, "culvert_agent") })
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

// tunnel counts a registered tunnel in, and with what it returns out.
func (m *metrics) tunnel(u *uplink) (over func()) {
	m.opened.Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tunnels[u] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.tunnels, u)
	}
}

func (m *metrics) list() []*uplink {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.tunnels))
}

// roundTrip is that of the slowest tunnel.
func (m *metrics) roundTrip() (worst time.Duration) {
	for _, u := range m.list() {
		worst = max(worst, u.sess.RoundTrip())
	}
	return worst
}

// expiry is when the first certificate in use ends; 0: there is none.
func (m *metrics) expiry() float64 {
	first := 0.0
	for _, u := range m.list() {
		get := u.shown.TLS.GetClientCertificate
		if get == nil {
			continue
		}
		cert, err := get(&tls.CertificateRequestInfo{})
		if err != nil || cert == nil || cert.Leaf == nil {
			continue
		}
		if ends := float64(cert.Leaf.NotAfter.Unix()); first == 0 || ends < first {
			first = ends
		}
	}
	return first
}

// renewed counts a renewal.
func (m *metrics) renewed(err error) {
	if err != nil {
		m.renewals[1].Inc()
	} else {
		m.renewals[0].Inc()
	}
}

func (m *metrics) relayFailed() { m.failed.Inc() }

func (m *metrics) lookupFailed() { m.lookups.Inc() }

// WriteMetrics writes all metrics in the text format of Prometheus.
func (a *Agent) WriteMetrics(w io.Writer) { a.metrics.set.WritePrometheus(w) }
