package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// maxView bounds what a client is shown at once, in bytes: a list of pods is
// one message.
const maxView = 64 << 20

// errShutdown is what peers hear from a relay that ends.
var errShutdown = &stream.Error{Code: stream.GoingAway, Text: "relay is shutting down"}

// errCrowds is what the streams of a user hear who lets too much lie unread.
var errCrowds = &stream.Error{
	Code: stream.Overloaded,
	Text: "the relay holds as many unread bytes as it may, and those of this user are the most: read faster, or open fewer connections",
}

// Server is a relay. Make one with New.
type Server struct {
	cfg     Config
	id      string
	started time.Time

	nodes   *nodes
	peers   *peerGroup
	flows   flows
	quotas  *quotas
	metrics *metrics
	noise   *noise
	joiner  forward.Joiner

	agents  *rpc.Listener // control streams of agents
	clients *rpc.Listener // control streams of clients

	door     door
	front    *front // nil: no HTTP
	sessions atomic.Int64
	audience audience
	draining chan struct{} // closed when Serve's context has ended
}

// New makes a relay. It does nothing yet.
func New(cfg Config) (*Server, error) {
	if cfg.TLS == nil || cfg.Auth == nil {
		return nil, errors.New("relay needs TLS and a way to authenticate its peers")
	}
	cfg = cfg.withDefaults()
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	s := &Server{
		cfg:      cfg,
		id:       hex.EncodeToString(id[:]),
		started:  time.Now(),
		nodes:    newNodes(cfg.MaxPodsPerNode, time.Now().Add(cfg.SettleTime)),
		peers:    newPeerGroup(cfg.Peers),
		quotas:   newQuotas(&cfg.Limits),
		noise:    newNoise(cfg.Log),
		agents:   rpc.NewListener(),
		clients:  rpc.NewListener(),
		door:     door{limit: cfg.MaxHandshakes},
		draining: make(chan struct{}),
	}
	cfg.Tunnel.Memory.Beside = s.joiner.Held
	s.nodes.absent.grace = cfg.ReturnTime
	s.nodes.elsewhere = func() bool { return s.peers.count() > 1 }
	cfg.Audit.Identify(s.id)
	s.metrics = newMetrics(s)
	if s.cfg.Locate == nil {
		s.cfg.Locate = s.nodes
	}
	if cfg.HTTP != nil {
		s.front = newFront(s, cfg.HTTP(s))
	}
	return s, nil
}

// ID returns the random name of this process.
func (s *Server) ID() string { return s.id }

// Draining is closed when the relay has begun to go away: it takes no new streams,
// and those that run have until the drain timeout.
func (s *Server) Draining() <-chan struct{} { return s.draining }

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
	// Clients are cut before agents, so that both ends of a stream that did not
	// finish in time hear why.
	lives := make(map[Role]context.Context)
	base, stopAll := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopAll(nil)
	users, stopUsers := context.WithCancelCause(base)
	defer stopUsers(nil)
	lives[RoleNode], lives[RoleJoiner], lives[RoleUser] = base, base, users

	var background sync.WaitGroup
	defer background.Wait()
	for _, srv := range []struct {
		l *rpc.Listener
		g *grpc.Server
	}{{s.agents, s.registry()}, {s.clients, s.view()}} {
		background.Go(func() { _ = srv.g.Serve(srv.l) })
		defer srv.g.Stop()
	}
	background.Go(func() {
		s.peers.watch(base, func(err error) { s.noise.warn(base, "relays beside this one not found", "err", err) })
	})
	if s.front != nil {
		background.Go(func() { s.front.run(users) })
		defer s.front.close()
	}
	closed := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer closed()

	var conns sync.WaitGroup
	err := s.accept(ctx, lives, l, &conns)
	_ = l.Close()
	s.cfg.Log.Info("relay is going away", "streams", s.flows.len(), "drain_timeout", s.cfg.DrainTimeout.String())
	close(s.draining)
	s.flows.close()
	s.nodes.goingAway(s.farewell())
	if s.front != nil {
		background.Go(func() { s.front.drain(base, s.cfg.DrainTimeout) })
	}
	s.waitIdle(s.cfg.DrainTimeout)
	s.reportCut()
	s.audience.await()
	stopUsers(errShutdown)
	s.waitIdle(2 * partingTime)
	stopAll(errShutdown)
	if s.front != nil {
		s.front.close()
	}
	conns.Wait()
	return err
}

func (s *Server) accept(ctx context.Context, lives map[Role]context.Context, l net.Listener, conns *sync.WaitGroup) error {
	var pause time.Duration
	for {
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it was asked to end
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
		v := s.door.enter(raw)
		if v == nil {
			s.metrics.refused("too-many-handshakes")
			_ = raw.Close()
			continue
		}
		conns.Go(func() { s.connection(lives, v) })
	}
}

// waitIdle waits until no stream runs and no request is served, at most for limit.
func (s *Server) waitIdle(limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	for _, idle := range []<-chan struct{}{s.front.quiet(), s.flows.idle()} {
		select {
		case <-idle:
		case <-t.C:
			return
		}
	}
}

// connection authenticates a peer and serves it until its session ends. lives
// says for how long a peer of each role may.
func (s *Server) connection(lives map[Role]context.Context, v *visitor) {
	who, carrier, viaHTTP, err := s.admit(lives[RoleNode], v)
	if viaHTTP {
		s.front.serve(v, carrier)
		return
	}
	pushed := s.door.leave(v)
	if err != nil {
		s.turnedAway(lives[RoleNode], v, pushed, err)
		return
	}
	defer s.leaveRoom(who)
	from := v.conn.RemoteAddr().String()
	sess, err := tunnel.NewSession(carrier, false, s.cfg.Tunnel)
	if err != nil {
		s.cfg.Log.Warn("session", "from", from, "err", err)
		return
	}
	p := newPeer(s, who, sess)
	s.metrics.session(who.Role, 1)
	defer s.metrics.session(who.Role, -1)
	log := s.cfg.Log.With("role", who.Role.String(), "name", who.Name, "from", from)
	log.Debug("session opened")
	err = p.serve(lives[who.Role])
	_ = sess.CloseWithError(err)
	if errors.Is(err, tunnel.ErrHungUp) {
		log.Info("session ended")
	} else {
		log.Info("session ended", "err", err)
	}
}

// registry and view are the two control planes; neither serves the other's
// peers.
func (s *Server) registry() *grpc.Server {
	g := rpc.NewServer()
	controlv1.RegisterRegistryServer(g, &registryService{srv: s})
	return g
}

func (s *Server) view() *grpc.Server {
	g := rpc.NewServer(grpc.MaxSendMsgSize(maxView))
	controlv1.RegisterViewServer(g, &viewService{srv: s})
	return g
}
