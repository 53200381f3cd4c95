package kube

import (
	"fmt"
	"io"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/measure"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// metrics are what is counted here. Labels are bounded: no pod, no user, no node.
type metrics struct {
	set  *vm.Set
	took *measure.Durations
}

func newMetrics() *metrics {
	m := &metrics{set: vm.NewSet(), took: measure.NewDurations("culvert_relay_kube_request_duration_seconds", "call")}
	m.set.RegisterMetricsWriter(m.took.Write)
	return m
}

// remembers shows how many answers of a kind are remembered, and how often one was
// of use.
func (m *metrics) remembers(of string, size func() int, lookups func() (hits, misses uint64)) {
	for result, pick := range map[string]func(hits, misses uint64) uint64{
		"hit": func(n, _ uint64) uint64 { return n }, "miss": func(_, n uint64) uint64 { return n },
	} {
		m.set.NewGauge(fmt.Sprintf(`culvert_relay_kube_lookups_total{of=%q,result=%q}`, of, result), func() float64 {
			return float64(pick(lookups()))
		})
	}
	m.set.NewGauge(fmt.Sprintf(`culvert_relay_kube_remembered{of=%q}`, of), func() float64 { return float64(size()) })
}

// asked counts a question to the API server and how long its answer took.
func (m *metrics) asked(call string, err error, took time.Duration) {
	result := stream.CodeOf(err).String()
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_kube_requests_total{call=%q,result=%q}`, call, result)).Inc()
	m.took.Observe(call, took)
}

// agentRefused counts an agent that was turned away, or a next token of one.
func (m *metrics) agentRefused(reason string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_agents_refused_total{reason=%q}`, reason)).Inc()
}

// callerRefused counts a caller that could not be told.
func (m *metrics) callerRefused(code stream.Code) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_callers_refused_total{reason=%q}`, code)).Inc()
}

// WriteMetrics writes what was counted in the text format of Prometheus.
func (k *Kube) WriteMetrics(w io.Writer) { k.metrics.set.WritePrometheus(w) }
