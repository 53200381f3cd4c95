package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// capabilityAPI tells a relay that streams to the API server are served here.
const capabilityAPI = "apiserver"

// api serves a stream to the cluster's API server, for a relay that cannot reach
// it itself. The address is the agent's own; nothing in the Open has a say in it.
// What goes over the stream is TLS between the relay and the API server.
func (u *uplink) api(ctx context.Context, st *tunnel.Stream, open *stream.Open) {
	a, began := u.agent, time.Now()
	defer a.apis.Add(-1)
	conn, err := a.reachAPI(ctx, a.apis.Add(1))
	if err != nil {
		st.Refuse(err)
		u.accountAPI(open, forward.Stats{}, err, began)
		return
	}
	if err := u.accept(st, open); err != nil {
		_ = conn.Reset(err)
		_ = st.Reset()
		u.accountAPI(open, forward.Stats{}, err, began)
		return
	}
	stats, err := a.joiner.Join(ctx, &rawConn{st: st, sess: u.sess}, wrapFar(conn, brokenAPI), nil)
	u.accountAPI(open, stats, err, began)
}

// reachAPI dials the API server for one of so many streams to it.
func (a *Agent) reachAPI(ctx context.Context, streams int64) (forward.Conn, error) {
	switch {
	case a.isLeaving():
		return nil, leaving()
	case a.cfg.APIServer == "":
		return nil, &stream.Error{Code: stream.Policy, Text: "the API server may not be reached through this agent: it runs without --allow-apiserver"}
	case streams > int64(a.cfg.MaxAPIStreams):
		return nil, &stream.Error{Code: stream.Overloaded, Text: "the agent has as many streams to the API server as it may"}
	}
	limited, cancel := context.WithTimeout(ctx, a.cfg.OpenTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(limited, "tcp", a.cfg.APIServer)
	if err == nil {
		return forward.TCP(conn.(*net.TCPConn)), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("dial the API server: %w", context.Cause(ctx))
	}
	wire := &stream.Error{Code: stream.Unreachable, Text: "the agent cannot reach the API server"}
	if limited.Err() != nil {
		wire = &stream.Error{Code: stream.Timeout, Text: "the API server did not accept the agent's connection in time"}
	}
	return nil, &reach.Error{Wire: wire, Cause: fmt.Errorf("dial the API server: %w", err)}
}

// brokenAPI is the code for an error of the connection to the API server.
func brokenAPI(err error) error {
	text := "the connection to the API server was lost"
	if errors.Is(err, forward.ErrReset) {
		text = "the API server reset the connection"
	}
	return &reach.Error{Wire: &stream.Error{Code: stream.Unreachable, Text: text}, Cause: err}
}

// accountAPI counts a stream to the API server and writes its one line.
func (u *uplink) accountAPI(open *stream.Open, stats forward.Stats, err error, began time.Time) {
	code, reason := outcome(err)
	u.agent.metrics.stream(err, stats)
	u.agent.cfg.Log.Info("stream",
		"id", open.ID.String(), "kind", open.Kind.String(), "user", open.User, "relay", u.relay, "addr", u.addr, "node", u.agent.cfg.Node,
		"bytes_up", stats.AtoB, "bytes_down", stats.BtoA, "code", code, "reason", reason,
		"duration", time.Since(began).Round(time.Microsecond).String())
}
