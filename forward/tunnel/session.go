package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"
)

var (
	// ErrLost is what every operation on a session returns, and on its
	// streams, once the session has ended. It is also io.ErrUnexpectedEOF: a
	// stream of a lost session did not end, it broke off.
	ErrLost = errors.New("tunnel lost")

	// ErrHungUp is in the chain of ErrLost when the peer ended the session on
	// purpose. A peer that crashed says no farewell.
	ErrHungUp = errors.New("the peer hung up")

	// ErrTooManyStreams means that the session carries as many streams as it
	// may. Others can be opened when some have ended, or over another session.
	ErrTooManyStreams = errors.New("too many streams on this tunnel")
)

// lostError is ErrLost with its cause.
type lostError struct {
	peer  string
	cause error
}

func (e *lostError) Error() string { return fmt.Sprintf("tunnel to %s lost: %v", e.peer, e.cause) }

func (e *lostError) Unwrap() error { return e.cause }

func (e *lostError) Is(target error) bool {
	return target == ErrLost || target == io.ErrUnexpectedEOF
}

// Session carries streams between two peers. It may be used by many
// goroutines at once. It ends when Close is called, when the connection
// breaks, when the peer breaks the protocol, or when the peer is gone; Done
// tells, and Err says why.
type Session struct {
	cfg Config
	car *Carrier
	in  *inbound
	out *outbound
	mux *yamux.Session

	ops      atomic.Int64  // reads and writes under way
	left     chan struct{} // tells that ops fell after the end
	held     chan struct{} // closed when yamux may learn that the connection is gone
	heldOnce sync.Once

	mu        sync.Mutex
	streams   map[*Stream]struct{}
	byID      map[uint32]*Stream
	lingering map[*Stream]parting
	nudge     chan struct{} // a stream began to linger

	dead    atomic.Pointer[lostError]
	closing atomic.Bool // it was ended on this side
	done    chan struct{}
	stopped sync.Once
	ended   sync.Once
	wg      sync.WaitGroup
}

// NewSession takes c over and starts a session on it. client must be true at
// exactly one end: the one that dialled.
func NewSession(c *Carrier, client bool, cfg Config) (*Session, error) {
	s := &Session{
		cfg:       cfg.withDefaults(),
		car:       c,
		streams:   make(map[*Stream]struct{}),
		byID:      make(map[uint32]*Stream),
		lingering: make(map[*Stream]parting),
		left:      make(chan struct{}, 1),
		held:      make(chan struct{}),
		nudge:     make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	s.out = newOutbound(c.Conn, c.rec, s.fail)
	s.in = newInbound(c.Conn, s.hold, s.peerReset)
	start := yamux.Server
	if client {
		start = yamux.Client
	}
	s.wg.Add(3)
	go func() { defer s.wg.Done(); s.out.run() }()
	go func() { defer s.wg.Done(); s.watch() }()
	go func() { defer s.wg.Done(); s.tidy() }()
	mux, err := start(muxConn{s}, s.cfg.mux(c.RoundTrip(), muxLog{s}))
	if err != nil {
		s.fail(err)
		s.wg.Wait()
		return nil, fmt.Errorf("start session with %s: %w", c.RemoteAddr(), err)
	}
	s.mux = mux
	return s, nil
}

// muxConn is the connection as yamux sees it.
type muxConn struct{ s *Session }

func (c muxConn) Read(p []byte) (int, error)  { return c.s.in.Read(p) }
func (c muxConn) Write(p []byte) (int, error) { return c.s.out.Write(p) }
func (c muxConn) Close() error                { c.s.fail(net.ErrClosed); return nil }

// enter begins an operation inside yamux, leave ends it.
func (s *Session) enter() error {
	s.ops.Add(1)
	if d := s.dead.Load(); d != nil {
		s.leave()
		return d
	}
	return nil
}

func (s *Session) leave() {
	if s.ops.Add(-1) <= stragglers && s.dead.Load() != nil {
		select {
		case s.left <- struct{}{}:
		default:
		}
	}
}

// Open opens a stream. It does not wait for the peer to accept it; what is
// written is sent along. The caller closes the stream.
func (s *Session) Open(ctx context.Context) (*Stream, error) {
	st := newStream(s)
	if err := s.add(st); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		s.remove(st)
		return nil, err
	}
	type result struct {
		ys  *yamux.Stream
		err error
	}
	opened := make(chan result, 1)
	var settled atomic.Bool // who comes second sees to what is left
	s.spawn(func() {        // sending waits while the connection is congested, and knows no context
		defer s.leave()
		ys, err := s.mux.OpenStream()
		opened <- result{ys, err}
		if settled.Swap(true) {
			s.disown(st, ys)
		}
	})
	select {
	case r := <-opened:
		return s.opened(st, r.ys, r.err)
	case <-ctx.Done():
		if settled.Swap(true) {
			r := <-opened
			return s.opened(st, r.ys, r.err)
		}
		return nil, fmt.Errorf("open stream to %s: %w", s.car.RemoteAddr(), context.Cause(ctx))
	}
}

func (s *Session) opened(st *Stream, ys *yamux.Stream, err error) (*Stream, error) {
	if err != nil {
		s.remove(st)
		return nil, s.translate(err)
	}
	st.attach(ys)
	return st, nil
}

// disown ends a stream nobody waits for any more. ys is nil if it did not open.
func (s *Session) disown(st *Stream, ys *yamux.Stream) {
	if ys != nil {
		st.attach(ys)
		_ = st.Reset()
	}
	s.remove(st)
}

// Accept waits for a stream the peer opened. A stream beyond MaxStreams is
// reset and not returned. The caller closes the stream.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	for {
		if d := s.dead.Load(); d != nil {
			return nil, d
		}
		ys, err := s.mux.AcceptStreamWithContext(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, s.translate(err)
		}
		st := newStream(s)
		st.attach(ys)
		if err := s.add(st); err != nil {
			s.remove(st)
			if !errors.Is(err, ErrTooManyStreams) {
				return nil, err
			}
			s.abort(ys.StreamID())
			continue
		}
		return st, nil
	}
}

// Serve accepts streams and runs handle for each in a goroutine of its own,
// until ctx ends or the session does. It returns when all handlers have
// returned, with the cause. handle owns the stream.
func (s *Session) Serve(ctx context.Context, handle func(*Stream)) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		st, err := s.Accept(ctx)
		if err != nil {
			return err
		}
		handlers.Go(func() { handle(st) })
	}
}

// spawn runs f in a goroutine that Close waits for.
func (s *Session) spawn(f func()) {
	s.mu.Lock() // orders this before the Wait in Close
	s.wg.Add(1)
	s.mu.Unlock()
	go func() { defer s.wg.Done(); f() }()
}

func (s *Session) add(st *Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.dead.Load(); d != nil {
		return d
	}
	if len(s.streams) >= s.cfg.MaxStreams {
		return fmt.Errorf("%w: %d are open", ErrTooManyStreams, len(s.streams))
	}
	s.streams[st] = struct{}{}
	return nil
}

// peerReset hears that the peer reset a stream.
func (s *Session) peerReset(id uint32) {
	s.mu.Lock()
	st := s.byID[id]
	s.mu.Unlock()
	if st != nil {
		st.goneOnce.Do(func() { close(st.gone) })
	}
}

func (s *Session) remove(st *Stream) {
	s.mu.Lock()
	delete(s.streams, st)
	if st.ys != nil {
		delete(s.byID, st.ys.StreamID())
	}
	delete(s.lingering, st)
	s.mu.Unlock()
}

// abort resets a stream at both ends: a frame goes to the peer, and the same
// frame to the session here, which takes it up with the next frame that comes
// in (watch sees to it that one does).
func (s *Session) abort(id uint32) {
	rst := muxControl(typeWindow, flagRST, id, 0)
	s.in.inject(rst)
	s.out.inject(rst)
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended, nil while it lives.
func (s *Session) Err() error {
	if d := s.dead.Load(); d != nil {
		return d
	}
	return nil
}

// NumStreams returns how many streams are open, those included that were
// closed here and wait for the peer.
func (s *Session) NumStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// RemoteAddr returns the address of the peer.
func (s *Session) RemoteAddr() net.Addr { return s.car.RemoteAddr() }

// LocalAddr returns the address of this end.
func (s *Session) LocalAddr() net.Addr { return s.car.LocalAddr() }

// translate turns what yamux returns into what this package promises.
func (s *Session) translate(err error) error {
	d := s.dead.Load()
	switch {
	case err == nil:
		return nil
	case d != nil:
		return d
	case errors.Is(err, yamux.ErrConnectionWriteTimeout):
		// The frame may still go out: the window accounting is not to be
		// trusted any more.
		s.fail(err)
		return s.dead.Load()
	case errors.Is(err, yamux.ErrSessionShutdown):
		s.fail(err)
		return s.dead.Load()
	case errors.Is(err, yamux.ErrRemoteGoAway): // the connection is about to end
		return &lostError{peer: s.car.RemoteAddr().String(), cause: ErrHungUp}
	}
	return err
}
