package kube

import (
	"context"
	"net/http"
	"sync"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// session is one port-forward request that was let in.
type session struct {
	front  *front
	from   string
	who    relay.Identity
	target relay.Target // without a port
	trace  stream.Trace

	over    chan struct{}
	why     error // set before over is closed
	watcher sync.WaitGroup

	mu    sync.Mutex
	live  int           // connections that are being dialled or joined
	quiet chan struct{} // closed when live falls to 0; nil unless somebody waits
}

// newSession makes a session and looks after it until ctx ends; then wait returns.
func (f *front) newSession(ctx context.Context, r *http.Request, who relay.Identity, target relay.Target) *session {
	s := &session{front: f, from: r.RemoteAddr, who: who, target: target, over: make(chan struct{})}
	s.trace, _ = stream.ParseTrace(r.Header.Get("Traceparent"))
	gone, why := f.kube.Watch(ctx, who, target)
	s.watcher.Go(func() { s.watch(ctx, gone, why) })
	return s
}

// wait returns when nothing is left of the session. Its context must have ended.
func (s *session) wait() { s.watcher.Wait() }

// watch ends the session when it must not go on. A relay that goes away takes no
// new connections and leaves those that run their time: kubectl cannot come back,
// so the session lasts as long as they do.
func (s *session) watch(ctx context.Context, gone <-chan struct{}, why func() error) {
	var quiet <-chan struct{}
	draining := s.front.draining
	for {
		select {
		case <-ctx.Done():
			return
		case <-gone:
			s.why = why()
		case <-draining:
			draining, quiet = nil, s.awaitQuiet()
			continue
		case <-quiet:
			s.why = errGoingAway
		}
		close(s.over)
		return
	}
}

// Over implements kubectl.Session.
func (s *session) Over() <-chan struct{} { return s.over }

// Why implements kubectl.Session.
func (s *session) Why() error {
	<-s.over
	return s.why
}

// Dial implements kubectl.Session. The relay authorizes and locates for each
// connection, so a pod that was born again under its name is found.
func (s *session) Dial(ctx context.Context, port uint16, door string) (kubectl.Connection, error) {
	target := s.target
	target.Port = port
	s.enter()
	c, err := s.front.dial(ctx, relay.Call{Who: s.who, From: s.from, Target: target, Trace: s.trace, Door: door})
	if err != nil {
		s.leave()
		return nil, err
	}
	return &connection{Connection: c, leave: sync.OnceFunc(s.leave)}, nil
}

func (s *session) enter() {
	s.mu.Lock()
	s.live++
	s.mu.Unlock()
}

func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live--; s.live == 0 && s.quiet != nil {
		close(s.quiet)
		s.quiet = nil
	}
}

// awaitQuiet returns a channel that is closed once no connection is left.
func (s *session) awaitQuiet() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := make(chan struct{})
	if s.live == 0 {
		close(quiet)
	} else {
		s.quiet = quiet
	}
	return quiet
}

// connection is a connection that its session knows to be live.
type connection struct {
	kubectl.Connection
	leave func()
}

// Join implements kubectl.Connection.
func (c *connection) Join(ctx context.Context, client forward.Conn) error {
	defer c.leave()
	return c.Connection.Join(ctx, client)
}

// Close implements kubectl.Connection.
func (c *connection) Close() error {
	defer c.leave()
	return c.Connection.Close()
}
