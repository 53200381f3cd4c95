package client

import (
	"context"
	"net"

	"google.golang.org/grpc"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// session is what the client needs of a tunnel to a relay.
type session interface {
	// open sends o on a new stream and returns it with the Reply to come.
	open(ctx context.Context, o *stream.Open) (conn, error)
	// control returns the way to the relay's services.
	control() grpc.ClientConnInterface
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
	cc, err := rpc.Dial(func(ctx context.Context) (net.Conn, error) {
		return openWith(ctx, s, &stream.Open{Kind: stream.KindControl, ID: stream.NewID()})
	})
	if err != nil {
		s.Close() //nolint:errcheck // never used
		return nil, err
	}
	return &tunnelSession{Session: s, grpc: cc}, nil
}

func (t *tunnelSession) open(ctx context.Context, o *stream.Open) (conn, error) {
	st, err := openWith(ctx, t.Session, o)
	if err != nil {
		return nil, err
	}
	c := tunnel.NewConn(st)
	c.ExpectReply()
	return c, nil
}

// openWith opens a stream and sends its first message.
func openWith(ctx context.Context, s *tunnel.Session, o *stream.Open) (*tunnel.Stream, error) {
	st, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	reset := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(reset)
		st.Reset() //nolint:errcheck // frees the write below
	})
	err = stream.WriteOpen(st, o)
	if !stop() {
		<-reset
		return nil, context.Cause(ctx)
	}
	if err != nil {
		st.Reset() //nolint:errcheck // the write's error is what matters
		return nil, err
	}
	return st, nil
}

func (t *tunnelSession) control() grpc.ClientConnInterface { return t.grpc }

func (t *tunnelSession) Close() error {
	t.grpc.Close() //nolint:errcheck // its stream ends with the session
	return t.Session.Close()
}
