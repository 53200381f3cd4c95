package exposition

// tunnels returns what a server of the given kind says of its tunnels; see
// tunnel.Memory.WriteMetrics.
func tunnels(kind string) []Metric {
	prefix := "culvert_" + kind
	return []Metric{
		{Name: prefix + "_tunnel_window_bytes", Type: "gauge", Help: "By how much the windows of streams have grown beyond what each begins with: so much may come in and not be read."},
		{Name: prefix + "_tunnel_window_limit_bytes", Type: "gauge", Help: "By how much they may, all together. At this limit further streams over long paths stay slow."},
		{Name: prefix + "_tunnel_unread_bytes", Type: "gauge", Help: "What came in and waits for who reads it, in the memory that it takes."},
		{Name: prefix + "_tunnel_unread_limit_bytes", Type: "gauge", Help: "How much that may be. From half of it on windows shrink; beyond it who lets most of it lie is cut."},
		{Name: prefix + "_tunnel_unread_cuts_total", Type: "counter", Help: "Streams that were cut for that."},
		{Name: prefix + "_tunnel_credit_waiting", Type: "gauge", Help: "Writers that wait until the other end of a tunnel has read: who reads there is slower than who writes here."},
		{Name: prefix + "_tunnel_credit_wait_seconds_total", Type: "counter", Help: "For how long writers did, of waits that are over."},
	}
}
