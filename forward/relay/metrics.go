package relay

import (
	"fmt"
	"io"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/measure"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// metrics are what a relay counts. Labels are bounded: no pod, no user, no
// node, and of codes only those that are known.
type metrics struct {
	set      *vm.Set
	up, down *vm.Counter
	again    *vm.Counter
	cut      *vm.Counter // at the end of the drain
	stopped  *vm.Counter
	sessions map[Role]*vm.Gauge
	opened   map[Role]*vm.Counter // sessions

	opening   *measure.Durations // of streams, by door
	handshake *measure.Durations
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		set: vm.NewSet(), sessions: make(map[Role]*vm.Gauge), opened: make(map[Role]*vm.Counter),
		opening:   measure.NewDurations("culvert_relay_stream_open_duration_seconds", "door", doorTunnel),
		handshake: measure.NewDurations("culvert_relay_handshake_duration_seconds", ""),
	}
	m.set.RegisterMetricsWriter(m.opening.Write)
	m.set.RegisterMetricsWriter(m.handshake.Write)
	m.up = m.set.NewCounter(`culvert_relay_payload_bytes_total{direction="up"}`)
	m.down = m.set.NewCounter(`culvert_relay_payload_bytes_total{direction="down"}`)
	m.again = m.set.NewCounter(`culvert_relay_streams_tried_again_total`)
	m.cut = m.set.NewCounter(`culvert_relay_streams_cut_total`)
	m.stopped = m.set.NewCounter(`culvert_relay_streams_stopped_total`)
	for _, r := range []Role{RoleNode, RoleUser, RoleJoiner} {
		m.sessions[r] = m.set.NewGauge(fmt.Sprintf(`culvert_relay_sessions{role=%q}`, r), nil)
		m.opened[r] = m.set.NewCounter(fmt.Sprintf(`culvert_relay_sessions_opened_total{role=%q}`, r))
	}
	m.set.NewGauge(`culvert_relay_peers`, func() float64 { return float64(s.peers.count()) })
	m.set.NewGauge(`culvert_relay_draining`, func() float64 {
		if s.Ready() {
			return 0
		}
		return 1
	})
	m.set.NewGauge(`culvert_relay_streams`, func() float64 { return float64(s.flows.len()) })
	m.set.NewGauge(`culvert_relay_nodes`, func() float64 { return float64(s.nodes.len()) })
	m.set.NewGauge(`culvert_relay_http_connections`, func() float64 { n, _ := s.front.count(); return float64(n) })
	m.set.NewGauge(`culvert_relay_http_requests_in_flight`, func() float64 { _, n := s.front.count(); return float64(n) })
	m.set.RegisterMetricsWriter(func(w io.Writer) { s.cfg.Tunnel.Memory.WriteMetrics(w, "culvert_relay") })
	m.limits(s.quotas.bound)
	m.set.NewGauge(`culvert_relay_handshakes_pending`, func() float64 { return float64(s.door.len()) })
	return m
}

// session counts a session that began (1) or ended (-1).
func (m *metrics) session(r Role, n int) {
	m.sessions[r].Add(float64(n))
	if n > 0 {
		m.opened[r].Inc()
	}
}

// stream counts a stream that has ended.
func (m *metrics) stream(code stream.Code, door string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_streams_total{code=%q,door=%q}`, label(code), door)).Inc()
}

// overLimit counts what was refused because of a limit.
func (m *metrics) overLimit(name string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_limit_refusals_total{limit=%q}`, name)).Inc()
}

// limits shows the limits that there are, and counts nothing yet for each.
func (m *metrics) limits(bound [limitsInAll]int) {
	for i, one := range theLimits() {
		if n := bound[i]; n >= 0 {
			m.set.NewGauge(fmt.Sprintf(`culvert_relay_limit{limit=%q}`, one.name), func() float64 { return float64(n) })
		}
		m.set.NewCounter(fmt.Sprintf(`culvert_relay_limit_refusals_total{limit=%q}`, one.name))
	}
}

// policy counts a decision of the policy.
func (m *metrics) policy(verdict string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_policy_decisions_total{decision=%q}`, verdict)).Inc()
}

// label is the name of a code that is known: an agent may send any number, and
// each would be a series.
func label(code stream.Code) string {
	if !code.Known() {
		return "unknown"
	}
	return code.String()
}

// refused counts a connection or a registration that was turned away.
func (m *metrics) refused(reason string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_refused_total{reason=%q}`, reason)).Inc()
}

// WriteMetrics writes all metrics in the text format of Prometheus.
func (s *Server) WriteMetrics(w io.Writer) { s.metrics.set.WritePrometheus(w) }
