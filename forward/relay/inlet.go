package relay

import (
	"context"
	"log/slog"
	"net"
	"sync"
)

// inlet is a listener whose connections are handed to it.
type inlet struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*inlet)(nil)

func newInlet() *inlet { return &inlet{conns: make(chan net.Conn), closed: make(chan struct{})} }

// deliver waits until somebody has accepted c. It is false after Close; then c
// still belongs to the caller.
func (l *inlet) deliver(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

// Accept returns the next connection.
func (l *inlet) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Connections that were accepted stay.
func (l *inlet) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr names the kind of listener.
func (l *inlet) Addr() net.Addr { return inletAddr{} }

type inletAddr struct{}

func (inletAddr) Network() string { return "http" }
func (inletAddr) String() string  { return "http" }

// maxComplaint bounds a line of net/http in the log, in bytes: the stack of a
// handler that panicked, or what a stranger sent.
const maxComplaint = 4 << 10

// quietly is where net/http complains: about peers, mostly, and so at their will.
type quietly struct{ to *noise }

// Enabled is true: net/http knows no levels.
func (quietly) Enabled(context.Context, slog.Level) bool { return true }

// Handle passes a complaint on.
func (q quietly) Handle(ctx context.Context, r slog.Record) error {
	q.to.warn(ctx, "http", "err", clipTo(r.Message, maxComplaint))
	return nil
}

// WithAttrs changes nothing: net/http has none.
func (q quietly) WithAttrs([]slog.Attr) slog.Handler { return q }

// WithGroup changes nothing, likewise.
func (q quietly) WithGroup(string) slog.Handler { return q }
