package client

import (
	"context"

	"google.golang.org/grpc"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// session is what the client needs of a tunnel to a relay.
type session interface {
	// open sends o on a new stream, with the first bytes of the connection if there
	// are any, and returns it with the Reply to come.
	open(ctx context.Context, o *stream.Open, early []byte) (conn, error)
	// control returns the way to the relay's services.
	control() grpc.ClientConnInterface
	// NumStreams returns how many streams are open, questions included.
	NumStreams() int
	// Done is closed when the session has ended, and Err says why from then on.
	Done() <-chan struct{}
	Err() error
	// Close ends the session and waits for what it started.
	Close() error
}

// conn is a stream to a pod.
type conn interface {
	forward.Conn
	forward.LazyReader
	forward.PushReader
	forward.FrameWriter
	// WaitReply waits for the relay's answer, a *stream.Error if it refuses.
	// Without it the first read takes the answer.
	WaitReply(ctx context.Context) error
}

// tunnelSession is the session over a real tunnel.
type tunnelSession struct {
	*tunnel.Session
	grpc *grpc.ClientConn
}

// newTunnelSession takes s over.
func newTunnelSession(s *tunnel.Session) (*tunnelSession, error) {
	cc, err := connect.Control(s)
	if err != nil {
		_ = s.Close() // never used
		return nil, err
	}
	return &tunnelSession{Session: s, grpc: cc}, nil
}

func (t *tunnelSession) open(ctx context.Context, o *stream.Open, early []byte) (conn, error) {
	st, err := connect.OpenWith(ctx, t.Session, o, early)
	if err != nil {
		return nil, err
	}
	c := tunnel.NewConn(st)
	c.ExpectReply()
	return c, nil
}

func (t *tunnelSession) control() grpc.ClientConnInterface { return t.grpc }

func (t *tunnelSession) Close() error {
	_ = t.grpc.Close() // its stream ends with the session
	return t.Session.Close()
}
