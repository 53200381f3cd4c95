package tunnel

import (
	"fmt"
	"io"
)

// WriteMetrics writes what Usage says in the text format of Prometheus. The names begin
// with prefix, as culvert_relay.
func (m *Memory) WriteMetrics(w io.Writer, prefix string) {
	u := m.Usage()
	for _, one := range []struct {
		name  string
		value float64
	}{
		{"_tunnel_window_bytes", float64(u.Grown)},
		{"_tunnel_window_limit_bytes", float64(u.GrownLimit)},
		{"_tunnel_unread_bytes", float64(u.Unread)},
		{"_tunnel_unread_limit_bytes", float64(u.UnreadLimit)},
		{"_tunnel_unread_cuts_total", float64(u.Cut)},
		{"_tunnel_credit_waiting", float64(u.Waiting)},
		{"_tunnel_credit_wait_seconds_total", u.Waited.Seconds()},
	} {
		fmt.Fprintf(w, "%s%s %v\n", prefix, one.name, one.value)
	}
}
