package relay

import (
	"context"
	"errors"
	"net"

	"github.com/culvert-k8s/culvert/forward"
)

// Call asks for a connection to a pod on behalf of a caller who came through a
// door of his own, not through a tunnel.
type Call struct {
	Who    Identity
	From   string // the caller's address, for the log line
	Target Target
	// Door names the way in: in the log line, and as a label of the metrics, so
	// it is one of a few names.
	Door string
}

// Link is a connection to a pod that the pod has accepted and that nobody uses
// yet. Whoever dialled it ends it, with Join or with Close.
type Link struct{}

// Dial opens a connection to a pod: it asks whether the caller may, looks where
// the pod is, and waits for its answer. A refusal is a *stream.Error, and has left
// its log line and its count. The link counts as a running stream until it ends.
func (s *Server) Dial(context.Context, Call) (*Link, error) {
	return nil, errors.New("dial: not built yet")
}

// Join carries bytes between client and the pod until both directions have ended,
// or ctx has, and takes both over; see forward.Joiner. It writes the one log line.
func (*Link) Join(context.Context, forward.Conn) error { return errors.New("join: not built yet") }

// Close gives up a link that was not joined. After Join it does nothing.
func (*Link) Close() error { return nil }

// DialAPI opens a connection to the API server through some agent that offers
// that. It carries the bytes as they are; deadlines work as on a socket. A refusal
// is a *stream.Error.
func (s *Server) DialAPI(context.Context) (net.Conn, error) {
	return nil, errors.New("dial the API server: not built yet")
}

// Draining is closed when the relay has begun to go away.
func (s *Server) Draining() <-chan struct{} { return s.draining }
