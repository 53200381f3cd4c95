package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

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
	cfg    Config
	car    *Carrier
	in     *inbound
	out    *outbound
	mux    *yamux.Session
	window int // credit that a stream's sender gets to begin with
	path   path

	peerParity uint32 // of the ids of streams the peer opens

	turn sync.Mutex // held while a stream is opened: one SYN at a time

	mu        sync.Mutex
	streams   map[uint32]*Stream // from their SYN on
	count     int                // streams, those included whose SYN was not sent yet
	opening   *Stream            // whose SYN goes by next
	lingering map[*Stream]time.Time
	nudge     chan struct{} // a stream began to linger

	over bool // streams that nobody has are not handed out any more

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
	cfg = cfg.withDefaults()
	s := &Session{
		cfg:       cfg,
		car:       c,
		window:    int(cfg.window()),
		streams:   make(map[uint32]*Stream),
		lingering: make(map[*Stream]time.Time),
		nudge:     make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	s.out = newOutbound(c.Conn, c.rec, s.fail)
	s.in = newInbound(c.Conn, s, cfg.Memory)
	c.rec.onWait = s.in.tell
	c.rec.own()
	start, parity := yamux.Server, uint32(1)
	if client {
		start, parity = yamux.Client, 0
	}
	s.peerParity = parity
	cfg.Memory.relief.enter(s)
	s.wg.Add(3)
	go func() { defer s.wg.Done(); s.out.run() }()
	go func() { defer s.wg.Done(); s.watch() }()
	go func() { defer s.wg.Done(); s.tidy() }()
	mux, err := start(muxConn{s}, s.cfg.mux(uint32(s.window)))
	if err != nil {
		s.fail(err)
		s.wg.Wait()
		return nil, fmt.Errorf("start session with %s: %w", c.RemoteAddr(), err)
	}
	s.mux = mux
	return s, nil
}

// muxConn is the connection as yamux sees it: without the data.
type muxConn struct{ s *Session }

func (c muxConn) Read(p []byte) (int, error) { return c.s.in.Read(p) }

func (c muxConn) Write(p []byte) (int, error) {
	if len(p) == muxHeader && p[1] <= typeWindow && binary.BigEndian.Uint16(p[2:])&flagSYN != 0 {
		c.s.sentSYN(binary.BigEndian.Uint32(p[4:]))
	}
	return c.s.out.Write(p)
}

// Close is called by yamux when it gives up.
func (c muxConn) Close() error { c.s.fail(errMuxFault); return nil }

// Open opens a stream. It does not wait for the peer to accept it; what is
// written is sent along. The caller closes the stream.
func (s *Session) Open(ctx context.Context) (*Stream, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("open stream to %s: %w", s.car.RemoteAddr(), context.Cause(ctx))
	}
	st := newStream(s)
	if err := s.add(st); err != nil {
		return nil, err
	}
	// Nothing in here waits for the connection: control frames always have room.
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	s.opening = st
	s.mu.Unlock()
	ys, err := s.mux.OpenStream()
	if err != nil {
		s.remove(st)
		return nil, s.translate(err)
	}
	st.ys = ys
	return st, nil
}

// sentSYN hears that yamux opens a stream, before anything can come in for it.
func (s *Session) sentSYN(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.opening
	s.opening = nil
	if st == nil || !st.known {
		return
	}
	st.id = id
	s.streams[id] = st
}

// Accept waits for a stream the peer opened. The caller closes the stream.
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
		if st := s.hand(ys); st != nil {
			return st, nil
		}
	}
}

// hand gives a stream that the peer has opened to who accepts it; nil if it is gone.
func (s *Session) hand(ys *yamux.Stream) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[ys.StreamID()]
	if st == nil || s.over {
		return nil
	}
	st.ys, st.handed = ys, true
	return st
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

// add counts a stream in, if there is room for it.
func (s *Session) add(st *Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.dead.Load(); d != nil {
		return d
	}
	if s.count >= s.cfg.MaxStreams {
		return fmt.Errorf("%w: %d are open", ErrTooManyStreams, s.count)
	}
	s.count++
	st.known, st.handed = true, true
	return nil
}

// opened hears that the peer opens a stream. One too many is reset.
func (s *Session) opened(id uint32) (bool, error) {
	if id == 0 || id%2 != s.peerParity {
		return false, errMuxFault
	}
	st := newStream(s)
	st.id = id
	s.mu.Lock()
	_, twice := s.streams[id]
	room := s.count < s.cfg.MaxStreams
	if !twice && room {
		s.count++
		st.known = true
		s.streams[id] = st
	}
	s.mu.Unlock()
	switch {
	case twice:
		return false, errMuxFault
	case !room:
		s.out.inject(muxControl(typeWindow, flagRST, id, 0))
	}
	return room, nil
}

func (s *Session) find(id uint32) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[id]
}

func (s *Session) pong() { s.path.pong(time.Now()) }

func (s *Session) remove(st *Stream) {
	defer st.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !st.known {
		return
	}
	st.known = false
	s.count--
	if s.streams[st.id] == st {
		delete(s.streams, st.id)
	}
	delete(s.lingering, st)
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
	return s.count
}

// RemoteAddr returns the address of the peer.
func (s *Session) RemoteAddr() net.Addr { return s.car.RemoteAddr() }

// LocalAddr returns the address of this end.
func (s *Session) LocalAddr() net.Addr { return s.car.LocalAddr() }

// RoundTrip returns what the kernel takes for the round trip to the peer now; 0 if
// it does not say.
func (s *Session) RoundTrip() time.Duration { return s.car.RoundTrip() }

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
