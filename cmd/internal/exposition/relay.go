package exposition

// Relay returns the metrics of the relay.
func Relay() []Metric {
	return append([]Metric{
		{Name: "culvert_relay_nodes", Type: "gauge", Help: "Nodes whose agent has a tunnel to this relay."},
		{Name: "culvert_relay_peers", Type: "gauge", Help: "Relays that this one knows of, itself included; 0 if it knows of none."},
		{Name: "culvert_relay_sessions", Type: "gauge", Labels: "role: node, user, joiner", Help: "Sessions that are open."},
		{Name: "culvert_relay_sessions_opened_total", Type: "counter", Labels: "role", Help: "Sessions that were let in. Of nodes: how often agents connect."},
		{Name: "culvert_relay_handshakes_pending", Type: "gauge", Help: "Connections that have not shown a credential yet."},
		{Name: "culvert_relay_handshake_duration_seconds", Type: "histogram", Help: "From the connection to the answer to its credential, whichever that is."},
		{Name: "culvert_relay_refused_total", Type: "counter", Labels: "reason", When: "somebody was refused", Help: "Connections, registrations and requests that were turned away: a code of the protocol, or handshake, timeout, crowded-out, too-many-handshakes, made-room, open, backlog, revoked."},
		{Name: "culvert_relay_http_connections", Type: "gauge", Help: "Connections of kubectl and its like."},
		{Name: "culvert_relay_http_requests_in_flight", Type: "gauge", Help: "Requests that are served now, upgraded ones too."},

		{Name: "culvert_relay_streams", Type: "gauge", Help: "Forwarded connections that are open now, on their way to a node or beyond."},
		{Name: "culvert_relay_streams_total", Type: "counter", Labels: "code, door", Help: "Forwarded connections that have ended, by the code of the protocol (ok, not-listening, forbidden, ...) and by the way in (culvert, kubectl-spdy, kubectl-websocket, kubectl-v4).", When: "one has ended"},
		{Name: "culvert_relay_stream_open_duration_seconds", Type: "histogram", Labels: "door", Help: "From the request for a connection to the pod's yes."},
		{Name: "culvert_relay_payload_bytes_total", Type: "counter", Labels: "direction: up, down", Help: "Payload that was carried: up is from client to pod."},
		{Name: "culvert_relay_streams_tried_again_total", Type: "counter", Help: "Connections whose pod was not where it was thought to be, and that were tried once more."},
		{Name: "culvert_relay_streams_stopped_total", Type: "counter", Help: "Connections that somebody stopped."},
		{Name: "culvert_relay_streams_cut_total", Type: "counter", Help: "Connections that the end of the drain cut."},
		{Name: "culvert_relay_draining", Type: "gauge", Help: "1 while the relay goes away."},

		{Name: "culvert_relay_limit", Type: "gauge", Labels: "limit", Help: "The limits that are set.", When: "there are limits"},
		{Name: "culvert_relay_limit_refusals_total", Type: "counter", Labels: "limit", Help: "What was refused because of a limit."},
		{Name: "culvert_relay_policy_rules", Type: "gauge", Help: "Rules of the policy.", When: "--policy"},
		{Name: "culvert_relay_policy_broken", Type: "gauge", Help: "1 while the policy's file cannot be used and an older policy is in force.", When: "--policy"},
		{Name: "culvert_relay_policy_loads_total", Type: "counter", Labels: "result: ok, broken", Help: "How often the policy's file was read anew.", When: "--policy"},
		{Name: "culvert_relay_policy_decisions_total", Type: "counter", Labels: "decision: allow, deny, would-allow, would-deny", Help: "Connections that the policy decided on.", When: "--policy"},

		{Name: "culvert_relay_kube_requests_total", Type: "counter", Labels: "call, result", Help: "Questions to the API server: call is the kind of object, result a code of the protocol. Reviews of agents' tokens are call=\"tokenreviews\".", When: "in a cluster"},
		{Name: "culvert_relay_kube_request_duration_seconds", Type: "histogram", Labels: "call", Help: "How long its answers took.", When: "in a cluster"},
		{Name: "culvert_relay_kube_remembered", Type: "gauge", Labels: "of: agents, callers, rights, places", Help: "Answers of the API server that are remembered.", When: "in a cluster"},
		{Name: "culvert_relay_kube_lookups_total", Type: "counter", Labels: "of, result: hit, miss", Help: "What was asked for: hit if the answer was remembered, or asked for by somebody else already.", When: "in a cluster"},
		{Name: "culvert_relay_agents_refused_total", Type: "counter", Labels: "reason", Help: "Agents whose token was refused.", When: "in a cluster, and one was"},
		{Name: "culvert_relay_callers_refused_total", Type: "counter", Labels: "reason", Help: "Callers whose credential was refused, by code of the protocol.", When: "in a cluster, and one was"},
		{Name: "culvert_relay_front_requests_total", Type: "counter", Labels: "kind: plain, upgrade, portforward; code: 1xx to 5xx, none, odd", Help: "Requests to kubectl's door that have ended.", When: "--kube, and one has"},
		{Name: "culvert_relay_kubectl_stalls_total", Type: "counter", Help: "Sessions of kubectl that had to wait for a pod that took nothing.", When: "--kube"},
		{Name: "culvert_relay_kubectl_stall_duration_seconds", Type: "histogram", Help: "For how long.", When: "--kube"},
		{Name: "culvert_relay_kubectl_stall_resets_total", Type: "counter", Help: "Connections that were reset because they held up their session for too long.", When: "--kube"},

		{Name: "culvert_relay_audit_records_total", Type: "counter", Help: "Lines of the audit log.", When: "--audit-log"},
		{Name: "culvert_relay_audit_dropped_total", Type: "counter", Labels: "reason: queue-full, closed, too-many-stream-refused, too-many-access-refused", Help: "Records that are missing in it.", When: "--audit-log"},
		{Name: "culvert_relay_audit_queued", Type: "gauge", Help: "Records that wait to be written.", When: "--audit-log"},
		{Name: "culvert_relay_audit_failing", Type: "gauge", Help: "1 while it cannot be written.", When: "--audit-log"},

		{Name: "culvert_relay_certificate_expiry_timestamp_seconds", Type: "gauge", Help: "When the serving certificate ends, in seconds since 1970; 0: there is none."},
	}, append(tunnels("relay"), both()...)...)
}

// both are those of either.
func both() []Metric {
	return []Metric{{Name: "culvert_build_info", Type: "gauge", Labels: "version, go_version", Help: "Always 1."}}
}
