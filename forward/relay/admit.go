package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// refusalTime bounds how long a refusal may take to be sent.
const refusalTime = time.Second

// admit does what must be done before a peer may cost anything: TLS, the
// credential, and the answer to it. A session has been counted when it returns
// without an error, unless the connection is for the HTTP door: that one has yet to
// show a credential.
func (s *Server) admit(ctx context.Context, v *visitor) (who Identity, carrier *tunnel.Carrier, viaHTTP bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.HandshakeTimeout)
	defer cancel()
	began := time.Now()
	carrier, err = tunnel.HandshakeServer(ctx, v.conn, s.cfg.TLS)
	if err != nil {
		s.shutOut(v, "", who, err)
		return who, nil, false, err
	}
	if s.front.isHTTP(carrier.State()) {
		return who, carrier, true, nil
	}
	who, err = s.greet(ctx, v, carrier)
	s.metrics.handshake.Observe("", time.Since(began))
	return who, carrier, false, err
}

// greet judges the credential of an agent or a client and answers it. On error the
// connection has been closed.
func (s *Server) greet(ctx context.Context, v *visitor, carrier *tunnel.Carrier) (Identity, error) {
	deadline, _ := ctx.Deadline()
	_ = carrier.SetDeadline(deadline)
	who, err := s.identify(ctx, v, carrier)
	if err == nil {
		err = s.enterRoom(ctx, who)
	}
	reply := stream.Reply{Version: stream.Version}
	if err != nil {
		// The old deadline may be what went wrong, and a write cut short by it
		// would spoil the farewell of TLS.
		_ = carrier.SetDeadline(time.Now().Add(refusalTime))
		reply.Code, reply.Text = stream.CodeOf(err), stream.TextOf(err)
		s.shutOut(v, carrier.State().NegotiatedProtocol, who, err)
		_ = stream.WriteReply(carrier, &reply)
		_ = carrier.Close()
		return who, err
	}
	if err := stream.WriteReply(carrier, &reply); err != nil {
		s.leaveRoom(who)
		_ = carrier.Close()
		return who, err
	}
	_ = carrier.SetDeadline(time.Time{})
	return who, nil
}

func (s *Server) identify(ctx context.Context, v *visitor, carrier *tunnel.Carrier) (Identity, error) {
	state := carrier.State()
	if p := state.NegotiatedProtocol; p != stream.ALPNAgent && p != stream.ALPNClient {
		return Identity{}, fmt.Errorf("peer asked for protocol %q", p)
	}
	hello, err := stream.ReadHello(carrier)
	if err != nil {
		return Identity{}, err
	}
	if !s.door.heard(v) {
		return Identity{}, net.ErrClosed
	}
	if !s.Ready() {
		return Identity{}, errShutdown
	}
	return s.cfg.Auth.Authenticate(WithSource(ctx, ParseSource(v.conn.RemoteAddr().String())), state, hello)
}

// enterRoom counts a session of a peer in, or refuses one too many.
func (s *Server) enterRoom(ctx context.Context, who Identity) error {
	if err := s.quotas.enter(who); err != nil {
		return s.overLimit(ctx, err, "role", who.Role.String(), "name", who.Name)
	}
	err := s.makeRoom(who.Role)
	if err != nil {
		s.quotas.leave(who)
	}
	return err
}

// leaveRoom counts it out.
func (s *Server) leaveRoom(who Identity) {
	s.quotas.leave(who)
	s.sessions.Add(-1)
}

// makeRoom counts a session in, or refuses one too many. Clients leave a
// quarter to agents: without those nobody is served.
func (s *Server) makeRoom(r Role) error {
	limit := int64(s.cfg.MaxSessions)
	if r != RoleNode {
		limit -= limit / 4
	}
	for s.sessions.Add(1) > limit {
		s.sessions.Add(-1)
		if s.front.giveWay() {
			continue
		}
		return &stream.Error{Code: stream.Overloaded, Text: "the relay has as many sessions as it may; try again later"}
	}
	return nil
}

// turnedAway counts and logs a connection that was not admitted. Anybody can
// cause that, so the lines are few whatever the number of connections.
func (s *Server) turnedAway(ctx context.Context, v *visitor, pushed bool, err error) {
	from := v.conn.RemoteAddr().String()
	switch {
	case pushed:
		s.metrics.refused("crowded-out")
		s.noise.warn(ctx, "connection pushed out: too many are not authenticated yet", "from", from)
	case errors.As(err, new(*stream.Error)):
		s.metrics.refused(label(stream.CodeOf(err)))
		s.noise.warn(ctx, "connection refused", "from", from, "err", err)
	default: // a port scan or a load balancer's probe
		reason := "handshake"
		if stream.CodeOf(err) == stream.Timeout {
			reason = "timeout"
		}
		s.metrics.refused(reason)
		s.cfg.Log.Log(ctx, slog.LevelDebug, "connection refused", "from", from, "err", err)
	}
}
