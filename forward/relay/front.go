package relay

import (
	"container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Limits of the HTTP door that are not worth a setting.
const (
	// httpIdleTime is how long a connection without a request is kept; kubectl's
	// library gives it up after 90 s, and should be the first to.
	httpIdleTime = 2 * time.Minute
	// httpMaxHeader bounds the head of a request in bytes. It holds several of the
	// largest tokens.
	httpMaxHeader = 128 << 10
	// httpMaxStreams bounds the requests at once on one connection of HTTP/2.
	httpMaxStreams = 250
	// httpStreamWindow and httpConnWindow are what a client may send ahead on
	// HTTP/2, in bytes.
	httpStreamWindow = 256 << 10
	httpConnWindow   = 1 << 20
	// httpPartingTime is how long what is no upgrade may go on once the relay has
	// begun to go away. A watch or the logs of a container have no end of their own,
	// and whoever asked asks again; what has one has reached it by then.
	httpPartingTime = 5 * time.Second
	// httpUnreadTime bounds the rest of a request that nobody has read: net/http
	// waits for some of it before it answers.
	httpUnreadTime = 5 * time.Second
)

// front is the HTTP door. TLS is behind a connection that comes here, a request is
// not: until the first one it stays among those who have not proved who they are,
// then it is a session. One that asks for nothing at the moment makes room when
// the sessions run out.
//
// It speaks on the bare TLS connection, whose answers leave at once, and net/http
// knows what TLS agreed on. What takes the connection over may gather its records:
// see tunnel.Carrier.HandOver.
type front struct {
	srv     *Server
	handler http.Handler
	http    *http.Server
	in      *inlet

	parting context.Context // ends when what is no upgrade has to
	part    context.CancelCauseFunc

	partingTime, unreadTime time.Duration // other than the constants only in tests

	mu     sync.Mutex
	guests map[net.Conn]*guest
	idle   list.List // of *guest, the longest idle first
	busy   crowd     // of requests
}

// guest is a connection of the HTTP door.
type guest struct {
	conn    *tls.Conn
	visitor *visitor
	admit   sync.Once // at the first request
	refusal error     // what became of that
	counted bool      // as a session

	// Under the lock of front.
	requests int
	resting  bool          // net/http waits for a request
	place    *list.Element // in idle
	pushed   bool          // it had to make room
	over     bool          // net/http has closed it or given it away
	gone     chan struct{} // closed when it is over and nothing is served on it
}

type guestKey struct{}

func newFront(s *Server, handler http.Handler) *front {
	f := &front{
		srv: s, handler: handler, in: newInlet(), guests: make(map[net.Conn]*guest),
		partingTime: httpPartingTime, unreadTime: httpUnreadTime,
	}
	f.parting, f.part = context.WithCancelCause(context.Background())
	f.http = &http.Server{
		Handler:                      f,
		DisableGeneralOptionsHandler: true, // what is asked of the API server is the API server's to answer
		ReadHeaderTimeout:            s.cfg.HandshakeTimeout,
		IdleTimeout:                  httpIdleTime,
		MaxHeaderBytes:               httpMaxHeader,
		ErrorLog:                     slog.NewLogLogger(quietly{s.noise}, slog.LevelWarn),
		ConnState:                    f.state,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, guestKey{}, f.find(c))
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          httpMaxStreams,
			MaxReceiveBufferPerStream:     httpStreamWindow,
			MaxReceiveBufferPerConnection: httpConnWindow,
		},
	}
	return f
}

// run serves until drain and close. Requests end with life.
func (f *front) run(life context.Context) {
	f.http.BaseContext = func(net.Listener) context.Context { return life }
	_ = f.http.Serve(f.in) // it ends when it is told to
}

// isHTTP tells whether a connection is for the HTTP door.
func (f *front) isHTTP(state tls.ConnectionState) bool {
	if f == nil {
		return false
	}
	switch state.NegotiatedProtocol {
	case "h2", "http/1.1", "":
		return true
	}
	return false
}

// serve serves a connection until it ends.
func (f *front) serve(v *visitor, carrier *tunnel.Carrier) {
	conn := carrier.HandOver()
	g := &guest{conn: conn, visitor: v, gone: make(chan struct{})}
	f.mu.Lock()
	f.guests[conn] = g
	f.mu.Unlock()
	late := time.AfterFunc(f.srv.cfg.HandshakeTimeout, func() { f.giveUp(g) })
	defer late.Stop()
	if f.in.deliver(conn) {
		<-g.gone
	}
	_ = conn.Close()                  // of one that was given away, the end of its handler is the end
	g.admit.Do(func() { f.leave(g) }) // it never asked for anything
	f.mu.Lock()
	delete(f.guests, conn)
	counted := g.counted
	f.mu.Unlock()
	if counted {
		f.srv.sessions.Add(-1)
	}
}

// leave takes a connection away from those who have not shown a credential. It is
// false if it had been pushed out by then.
func (f *front) leave(g *guest) bool {
	if f.srv.door.leave(g.visitor) {
		f.srv.turnedAway(context.Background(), g.visitor, true, net.ErrClosed)
		return false
	}
	return true
}

// giveUp hangs up on a connection that has not asked for anything yet. On HTTP/2
// net/http has no limit for that: a header may go on and on.
func (f *front) giveUp(g *guest) {
	g.admit.Do(func() {
		g.refusal = &stream.Error{Code: stream.Timeout, Text: "no request came in time"}
		f.leave(g)
		_ = g.visitor.conn.Close() // never waits
	})
}

func (f *front) find(c net.Conn) *guest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.guests[c]
}

// ServeHTTP lets a request in.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g, _ := r.Context().Value(guestKey{}).(*guest)
	if g == nil {
		panic(http.ErrAbortHandler)
	}
	defer f.finish(w, r)
	if err := f.begin(g); err != nil {
		f.srv.metrics.refused(label(stream.CodeOf(err)))
		w.Header().Set("Connection", "close")
		w.Header().Set("Retry-After", "5")
		if refuse := f.srv.cfg.RefuseHTTP; refuse != nil {
			refuse(w, r, err)
		} else {
			http.Error(w, stream.TextOf(err), http.StatusServiceUnavailable)
		}
		return
	}
	defer f.end(g)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	stop := context.AfterFunc(f.parting, func() {
		if !f.upgraded(g) {
			cancel(context.Cause(f.parting))
		}
	})
	defer stop()
	f.handler.ServeHTTP(w, r.WithContext(ctx))
}

// finish bounds what net/http may still read of a request that was answered. On
// HTTP/2 it reads nothing more.
func (f *front) finish(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(f.unreadTime))
	}
}

// upgraded tells whether the handler has taken the connection over.
func (f *front) upgraded(g *guest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return g.over
}

func (f *front) begin(g *guest) error {
	g.admit.Do(func() {
		if !f.leave(g) {
			g.refusal = &stream.Error{Code: stream.Overloaded, Text: "the relay has had no room for this connection; try again later"}
			return
		}
		if g.refusal = f.srv.makeRoom(RoleUser); g.refusal == nil {
			f.mu.Lock()
			g.counted = true
			f.mu.Unlock()
		}
	})
	if g.refusal != nil {
		return g.refusal
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if g.pushed || g.over { // there is nobody to answer any more
		return &stream.Error{Code: stream.Overloaded, Text: "this connection had to make room for another; try again on a new one"}
	}
	g.requests++
	f.busy.enter()
	f.settle(g)
	return nil
}

func (f *front) end(g *guest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g.requests--
	f.settle(g)
	f.busy.leave()
}

// state hears from net/http what a connection does.
func (f *front) state(c net.Conn, s http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.guests[c]
	if g == nil {
		return
	}
	g.resting = s == http.StateIdle
	g.over = g.over || s == http.StateClosed || s == http.StateHijacked
	f.settle(g)
}

// settle notes that a connection is idle or is not, or has ended.
func (f *front) settle(g *guest) {
	idle := g.resting && g.requests == 0 && g.counted && !g.over
	switch {
	case idle && g.place == nil:
		g.place = f.idle.PushBack(g)
	case !idle && g.place != nil:
		f.idle.Remove(g.place)
		g.place = nil
	}
	if g.over && g.requests == 0 {
		select {
		case <-g.gone:
		default:
			close(g.gone)
		}
	}
}

// giveWay ends the connection that has been idle for longest, and with it a
// session. It is false if all have something to do.
func (f *front) giveWay() bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := f.idle.Front()
	if oldest == nil {
		return false
	}
	g, _ := f.idle.Remove(oldest).(*guest)
	g.place, g.pushed, g.counted = nil, true, false
	f.srv.sessions.Add(-1)
	f.srv.metrics.refused("made-room")
	_ = g.visitor.conn.Close() // never waits
	return true
}

// quiet returns a channel that is closed once no request is served.
func (f *front) quiet() <-chan struct{} {
	if f == nil {
		return new(crowd).gone()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.busy.gone()
}

// drain takes no new connections and lets go those without a request; those of
// HTTP/2 are told to ask elsewhere. Requests have httpPartingTime, or limit if that
// is less; upgraded connections are not touched. It returns when all requests have
// ended, or with ctx.
func (f *front) drain(ctx context.Context, limit time.Duration) {
	late := time.AfterFunc(min(f.partingTime, limit), func() { f.part(errShutdown) })
	defer late.Stop()
	_ = f.http.Shutdown(ctx)
}

// close cuts what is left.
func (f *front) close() {
	f.part(errShutdown)
	_ = f.http.Close()
	_ = f.in.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.guests {
		_ = g.visitor.conn.Close()
	}
}

// count returns the connections, and the requests that are served.
func (f *front) count() (conns, requests int) {
	if f == nil {
		return 0, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.guests), f.busy.n
}
