package rpc

import (
	"errors"
	"net"
	"sync"
)

// backlog is the most delivered connections that may wait for Accept. A gRPC
// server accepts at once, so a full queue means that nobody serves.
const backlog = 128

// ErrBacklog is returned by [Listener.Deliver] when too many connections
// already wait to be accepted.
var ErrBacklog = errors.New("too many connections wait to be accepted")

// Listener is a net.Listener whose connections are delivered by whoever
// accepts the streams of a session. One listener may be fed by many sessions.
// Its methods may be called from any goroutine.
type Listener struct {
	queue chan net.Conn

	// mu makes Deliver and Close exclude each other: nothing can be queued
	// after Close has emptied the queue.
	mu     sync.Mutex
	closed bool
}

var _ net.Listener = (*Listener)(nil)

// NewListener returns an open listener without connections.
func NewListener() *Listener {
	return &Listener{queue: make(chan net.Conn, backlog)}
}

// Deliver queues conn for Accept and never blocks. peer is the identity that
// was proved for conn, given to handlers by [Peer]; it may be nil.
//
// The listener owns conn from the call on, also when it fails: then conn has
// been closed, and the error is net.ErrClosed after Close or [ErrBacklog] when
// 128 connections already wait.
func (l *Listener) Deliver(conn net.Conn, peer any) error {
	if err := l.enqueue(&delivered{Conn: conn, peer: peer}); err != nil {
		conn.Close() // the error that tells is the one returned
		return err
	}
	return nil
}

func (l *Listener) enqueue(conn *delivered) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	select {
	case l.queue <- conn:
		return nil
	default:
		return ErrBacklog
	}
}

// Accept waits for the next delivered connection, which then belongs to the
// caller. After Close it returns net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	conn, ok := <-l.queue
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Close ends Accept and closes the connections that still wait for it.
// Accepted connections and the sessions beneath are not touched. Close may be
// called again and always returns nil.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.queue)
	for conn := range l.queue {
		conn.Close() // nobody has read from it, so nobody can miss anything
	}
	return nil
}

// Addr returns an address that only names the kind of listener.
func (l *Listener) Addr() net.Addr { return addr{} }

// delivered is a connection on its way from Deliver to the credentials of the
// server, which take the identity off it again.
type delivered struct {
	net.Conn
	peer any
}

type addr struct{}

func (addr) Network() string { return "tunnel" }
func (addr) String() string  { return "tunnel" }
