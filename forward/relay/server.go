package relay

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Config is what a Server needs. TLS and Auth must be set.
type Config struct {
	// TLS is the server's side of the handshake. It must offer
	// stream.ALPNAgent and stream.ALPNClient and nothing else.
	TLS *tls.Config

	// Auth says who a peer is.
	Auth Authenticator

	// Issuer makes node certificates. nil: agents cannot join here.
	Issuer Issuer

	// Locate finds pods. nil: from what the agents report.
	Locate Locator

	// Authorize decides on each stream. nil: every user may reach every pod
	// the agents let him.
	Authorize Authorizer

	// Version is shown to peers.
	Version string

	// Log gets one line for each stream and each session that ends. nil: none.
	Log *slog.Logger

	// Tunnel sets the limits of each session.
	Tunnel tunnel.Config

	// MaxHandshakes bounds the connections not yet authenticated. 0 means 512.
	MaxHandshakes int

	// MaxSessions bounds the sessions of agents and clients. 0 means 20,000.
	MaxSessions int

	// MaxPodsPerNode bounds what one agent may report. 0 means 4,096.
	MaxPodsPerNode int

	// HandshakeTimeout bounds TLS and the credential. 0 means 10 s.
	HandshakeTimeout time.Duration

	// OpenTimeout bounds each step of opening a stream: reading Open, asking
	// who may, reaching the node, its answer. 0 means 15 s.
	OpenTimeout time.Duration

	// DrainTimeout is how long running streams may go on after the end of
	// Serve's context. 0 means 30 s.
	DrainTimeout time.Duration
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxHandshakes, 512)
	setDefault(&c.MaxSessions, 20000)
	setDefault(&c.MaxPodsPerNode, 4096)
	setDefault(&c.HandshakeTimeout, 10*time.Second)
	setDefault(&c.OpenTimeout, 15*time.Second)
	setDefault(&c.DrainTimeout, 30*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Server is a relay. Make one with New.
type Server struct {
	cfg     Config
	id      string
	started time.Time

	nodes   *nodes
	flows   flows
	metrics *metrics
	buffers sync.Pool // of *[chunk]byte

	agents  *rpc.Listener // control streams of agents
	clients *rpc.Listener // control streams of clients

	handshakes chan struct{}
	sessions   atomic.Int64
	draining   chan struct{} // closed when Serve's context has ended
}

// New makes a server that is not listening yet.
func New(cfg Config) (*Server, error) {
	if cfg.TLS == nil || cfg.Auth == nil {
		return nil, errors.New("relay needs TLS and a way to authenticate its peers")
	}
	cfg = cfg.withDefaults()
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	s := &Server{
		cfg:        cfg,
		id:         hex.EncodeToString(id[:]),
		started:    time.Now(),
		nodes:      newNodes(cfg.MaxPodsPerNode),
		agents:     rpc.NewListener(),
		clients:    rpc.NewListener(),
		handshakes: make(chan struct{}, cfg.MaxHandshakes),
		draining:   make(chan struct{}),
	}
	s.buffers.New = func() any { return new([chunk]byte) }
	s.metrics = newMetrics(s)
	if s.cfg.Locate == nil {
		s.cfg.Locate = s.nodes
	}
	return s, nil
}

// ID returns the random name of this process.
func (s *Server) ID() string { return s.id }

// Ready tells whether new streams are taken.
func (s *Server) Ready() bool {
	select {
	case <-s.draining:
		return false
	default:
		return true
	}
}

// Serve accepts connections until ctx ends, then lets running streams finish
// within the drain timeout. It closes l and returns when everything it started
// has ended. It can be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	hard, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var background sync.WaitGroup
	defer background.Wait()
	for _, srv := range []struct {
		l *rpc.Listener
		g *grpc.Server
	}{{s.agents, s.registry()}, {s.clients, s.view()}} {
		background.Go(func() { _ = srv.g.Serve(srv.l) })
		defer srv.g.Stop()
	}
	closed := context.AfterFunc(ctx, func() { l.Close() })
	defer closed()

	var conns sync.WaitGroup
	err := s.accept(ctx, hard, l, &conns)
	close(s.draining)
	s.nodes.goingAway("relay is shutting down", s.cfg.DrainTimeout)
	s.drain()
	stop(&stream.Error{Code: stream.GoingAway, Text: "relay is shutting down"})
	conns.Wait()
	return err
}

func (s *Server) accept(ctx, hard context.Context, l net.Listener, conns *sync.WaitGroup) error {
	var pause time.Duration
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept: %w", err)
			}
			// Descriptors have run out, most likely: what is served goes on.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Log.Warn("cannot accept", "err", err, "retry_in", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		select {
		case s.handshakes <- struct{}{}:
			conns.Go(func() { s.connection(hard, raw) })
		default:
			s.metrics.refused("too-many-handshakes")
			_ = raw.Close()
		}
	}
}

// drain waits until no stream runs, at most for the drain timeout.
func (s *Server) drain() {
	limit := time.NewTimer(s.cfg.DrainTimeout)
	defer limit.Stop()
	select {
	case <-s.flows.idle():
	case <-limit.C:
	}
}

// connection authenticates a peer and serves it until its session ends.
func (s *Server) connection(ctx context.Context, raw net.Conn) {
	who, carrier, err := s.admit(ctx, raw)
	<-s.handshakes
	if err != nil {
		s.metrics.refused(reasonOf(err))
		level := slog.LevelDebug // a port scan or a load balancer's probe
		if errors.As(err, new(*stream.Error)) {
			level = slog.LevelWarn
		}
		s.cfg.Log.Log(ctx, level, "connection refused", "from", raw.RemoteAddr().String(), "err", err)
		return
	}
	defer s.sessions.Add(-1)
	sess, err := tunnel.NewSession(carrier, false, s.cfg.Tunnel)
	if err != nil {
		s.cfg.Log.Warn("session", "from", raw.RemoteAddr().String(), "err", err)
		return
	}
	p := &peer{srv: s, who: who, sess: sess}
	s.metrics.session(who.Role, 1)
	s.cfg.Log.Debug("session opened", "role", who.Role.String(), "name", who.Name, "from", sess.RemoteAddr().String())
	err = p.serve(ctx)
	_ = sess.CloseWithError(err)
	s.metrics.session(who.Role, -1)
	s.cfg.Log.Info("session ended", "role", who.Role.String(), "name", who.Name, "from", sess.RemoteAddr().String(), "err", err)
}

// admit does what must be done before a peer may cost anything: TLS, the
// credential, and the answer to it.
func (s *Server) admit(ctx context.Context, raw net.Conn) (Identity, *tunnel.Carrier, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.HandshakeTimeout)
	defer cancel()
	carrier, err := tunnel.HandshakeServer(ctx, raw, s.cfg.TLS)
	if err != nil {
		return Identity{}, nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = carrier.SetDeadline(deadline)
	who, err := s.identify(ctx, carrier)
	reply := stream.Reply{Version: stream.Version}
	if err == nil && s.sessions.Add(1) > int64(s.cfg.MaxSessions) {
		s.sessions.Add(-1)
		err = &stream.Error{Code: stream.Overloaded, Text: "the relay has as many sessions as it may; try again later"}
	}
	if err != nil {
		reply.Code, reply.Text = stream.CodeOf(err), err.Error()
		_ = stream.WriteReply(carrier, &reply)
		_ = carrier.Close()
		return who, nil, err
	}
	if err := stream.WriteReply(carrier, &reply); err != nil {
		s.sessions.Add(-1)
		_ = carrier.Close()
		return who, nil, err
	}
	_ = carrier.SetDeadline(time.Time{})
	return who, carrier, nil
}

func (s *Server) identify(ctx context.Context, carrier *tunnel.Carrier) (Identity, error) {
	hello, err := stream.ReadHello(carrier)
	if err != nil {
		return Identity{}, err
	}
	return s.cfg.Auth.Authenticate(ctx, carrier.State(), hello)
}

func reasonOf(err error) string {
	var refused *stream.Error
	switch {
	case errors.As(err, &refused):
		return refused.Code.String()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "handshake"
}

// registry and view are the two control planes; neither serves the other's
// peers.
func (s *Server) registry() *grpc.Server {
	g := rpc.NewServer()
	controlv1.RegisterRegistryServer(g, &registryService{srv: s})
	return g
}

func (s *Server) view() *grpc.Server {
	g := rpc.NewServer()
	controlv1.RegisterViewServer(g, &viewService{srv: s})
	return g
}
