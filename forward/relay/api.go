package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// capabilityAPI is what an agent calls its way to the API server when it registers.
const capabilityAPI = "apiserver"

// apiTries is among how many agents the time for a connection is divided, so that
// one that does not answer does not take it all.
const apiTries = 3

// DialAPI opens a connection to the API server through some agent that offers
// that, within OpenTimeout. It carries the bytes as they are; deadlines work as on
// a socket, and CloseWrite as on one of TCP. A refusal has a *stream.Error in its
// chain. The caller closes the connection.
func (s *Server) DialAPI(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpenTimeout)
	defer cancel()
	err := error(&stream.Error{
		Code: stream.AgentOffline,
		Text: "no connected agent offers a way to the API server; start one with --allow-apiserver",
	})
	for _, t := range s.nodes.offering(capabilityAPI) {
		var st *tunnel.Stream
		if st, err = s.openAPI(ctx, t); err == nil {
			return st, nil
		}
		if ctx.Err() != nil {
			break
		}
		s.noise.warn(ctx, "an agent does not reach the API server", "node", t.node, "err", err)
	}
	return nil, fmt.Errorf("dial the API server: %w", err)
}

func (s *Server) openAPI(ctx context.Context, t *tunnelTo) (*tunnel.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpenTimeout/apiTries)
	defer cancel()
	st, err := openOn(ctx, t.sess, &stream.Open{Kind: stream.KindAPI, ID: stream.NewID()}, false)
	if err == nil {
		answer := tunnel.NewConn(st) // only for its answer: no frames follow that
		answer.ExpectReply()
		if err = answer.WaitReply(ctx); err == nil {
			return st, nil
		}
		_ = st.Reset()
	}
	if errors.As(err, new(*stream.Error)) {
		return nil, fmt.Errorf("node %s: %w", t.node, err)
	}
	code := stream.CodeOf(err)
	if code == stream.Internal {
		code = stream.Unreachable
	}
	return nil, fmt.Errorf("%w: %w", &stream.Error{Code: code, Text: fmt.Sprintf("node %s does not answer", t.node)}, err)
}

// offering returns the tunnels to agents with a capability, in random order, those
// that stay before those that leave.
func (ns *nodes) offering(capability string) []*tunnelTo {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	var ts []*tunnelTo
	for _, n := range ns.all {
		for _, t := range n.tunnels {
			if slices.Contains(t.capabilities, capability) {
				ts = append(ts, t)
			}
		}
	}
	rand.Shuffle(len(ts), func(i, j int) { ts[i], ts[j] = ts[j], ts[i] }) //nolint:gosec // to spread load, not to hide
	slices.SortStableFunc(ts, func(a, b *tunnelTo) int {
		return compareBool(a.leaving || a.supersede, b.leaving || b.supersede)
	})
	return ts
}
