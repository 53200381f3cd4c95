package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// farEnd is a connection that came to a listener; its call is known once it has
// told its number.
type farEnd struct {
	ln   net.Listener
	call *call
}

// Serve takes the pod's ends of connections from a listener, which it owns, until
// the listener is closed or the load stopped. It returns at once.
func (l *Load) Serve(ln *net.TCPListener) {
	l.mu.Lock()
	l.listeners = append(l.listeners, ln)
	l.mu.Unlock()
	l.all.Go(func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			if !l.keep(conn, ln) {
				conn.Close()
				return
			}
			l.all.Go(func() {
				l.answer(conn)
				l.mu.Lock()
				delete(l.farConns, conn)
				l.mu.Unlock()
			})
		}
	})
}

func (l *Load) keep(conn *net.TCPConn, ln net.Listener) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.farConns[conn] = &farEnd{ln: ln}
	return l.ctx.Err() == nil
}

// answer is the pod's end of one connection.
func (l *Load) answer(conn *net.TCPConn) {
	var id [8]byte
	if n, err := io.ReadFull(conn, id[:]); err != nil {
		conn.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			l.complain(fmt.Errorf("a pod saw an end after %d bytes, which nobody made", n))
		}
		return
	}
	c, err := l.arrive(binary.BigEndian.Uint64(id[:]), conn)
	if err != nil {
		l.complain(err)
		conn.Close()
		return
	}
	c.far.run(conn, l.quieted)
	l.mu.Lock()
	c.farOver = true
	l.mu.Unlock()
	l.done(c)
}

func (l *Load) arrive(id uint64, conn *net.TCPConn) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, twice := l.seen[id]; twice {
		return nil, fmt.Errorf("connection %d came to a pod twice", id)
	}
	c := l.calls[id]
	if c == nil {
		return nil, fmt.Errorf("a pod got connection %d, which nobody made", id)
	}
	l.seen[id] = struct{}{}
	delete(l.calls, id)
	c.arrived = true
	l.farConns[conn].call = c
	c.flow.live[c] = struct{}{} // it may have been over when only one end was known
	return c, nil
}

// Vanish resets the pod's ends of all connections of a listener and closes it, as
// when the pod is gone.
func (l *Load) Vanish(ln *net.TCPListener) {
	ln.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn, far := range l.farConns {
		switch {
		case far.ln != net.Listener(ln):
		case far.call == nil:
			conn.Close()
		case !far.call.farOver:
			far.call.far.kill(conn)
		}
	}
}
