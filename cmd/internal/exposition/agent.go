package exposition

// Agent returns the metrics of the agent.
func Agent() []Metric {
	return append([]Metric{
		{Name: "culvert_agent_relays", Type: "gauge", Help: "Relays that the agent was given."},
		{Name: "culvert_agent_relay_addresses", Type: "gauge", Help: "Addresses of relays that a tunnel is kept to."},
		{Name: "culvert_agent_relays_missing", Type: "gauge", Help: "Relays that are known to be there and have no tunnel."},
		{Name: "culvert_agent_tunnels", Type: "gauge", Help: "Tunnels over which streams can come."},
		{Name: "culvert_agent_tunnels_opened_total", Type: "counter", Help: "Tunnels that were registered: after the first ones, how often the agent had to connect again."},
		{Name: "culvert_agent_tunnel_round_trip_seconds", Type: "gauge", Help: "Round trip to a relay as the kernel measures it, of the slowest tunnel; 0: not known."},
		{Name: "culvert_agent_relay_dial_failures_total", Type: "counter", Help: "Attempts to reach a relay that failed."},
		{Name: "culvert_agent_relay_lookup_failures_total", Type: "counter", Help: "Names of relays that could not be resolved."},
		{Name: "culvert_agent_certificate_expiry_timestamp_seconds", Type: "gauge", Help: "When the first of the certificates in use ends, in seconds since 1970; 0: the agent shows tokens."},
		{Name: "culvert_agent_renewals_total", Type: "counter", Labels: "result: ok, failed", Help: "Renewals of what a tunnel shows, a certificate or a token."},

		{Name: "culvert_agent_streams", Type: "gauge", Help: "Streams that are open now."},
		{Name: "culvert_agent_api_streams", Type: "gauge", Help: "Those of them to the API server."},
		{Name: "culvert_agent_streams_total", Type: "counter", Labels: "code", Help: "Streams that have ended, by code of the protocol.", When: "one has ended"},
		{Name: "culvert_agent_payload_bytes_total", Type: "counter", Labels: "direction: up, down", Help: "Payload of streams that have ended: up is from client to pod."},
		{Name: "culvert_agent_pod_dial_duration_seconds", Type: "histogram", Help: "What finding and reaching a pod took, whatever came of it: the node's part of opening a stream."},
		{Name: "culvert_agent_draining", Type: "gauge", Help: "1 while the agent goes away."},
		{Name: "culvert_agent_pods", Type: "gauge", Help: "Pods of this node."},
		{Name: "culvert_agent_pods_ready", Type: "gauge", Help: "1 while it is known which there are."},
	}, append(tunnels("agent"), both()...)...)
}
