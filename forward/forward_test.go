package forward_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errOnPurpose = errors.New("on purpose")

// tcpPair returns both ends of a connection over loopback.
func tcpPair() (a, b *net.TCPConn, err error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	// The kernel completes the handshake by itself, so one goroutine can dial and then accept.
	c, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
	if err != nil {
		return nil, nil, err
	}
	b, err = l.AcceptTCP()
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c.(*net.TCPConn), b, nil
}

func connPair() (forward.Conn, forward.Conn, func(), error) {
	a, b, err := tcpPair()
	if err != nil {
		return nil, nil, nil, err
	}
	return forward.TCP(a), forward.TCP(b), nil, nil
}

// joinedPair is two ends with a Join between them: what is behind a Join must still be a Conn.
func joinedPair(mk func() (a, b forward.Conn, stop func(), err error)) func() (a, b forward.Conn, stop func(), err error) {
	return func() (forward.Conn, forward.Conn, func(), error) {
		a, a2, stopA, err := mk()
		if err != nil {
			return nil, nil, nil, err
		}
		b, b2, stopB, err := mk()
		if err != nil {
			return nil, nil, nil, err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = new(forward.Joiner).Join(context.Background(), a2, b2, nil)
		}()
		stop := func() {
			<-done
			for _, f := range []func(){stopA, stopB} {
				if f != nil {
					f()
				}
			}
		}
		return a, b, stop, nil
	}
}

func memPair() (a, b forward.Conn, stop func(), err error) {
	a, b = forwardtest.Pipe()
	return a, b, nil, nil
}

func TestTCP(t *testing.T) {
	forwardtest.TestConn(t, connPair)
	forwardtest.TestErrReset(t, connPair)
}

func TestThroughJoin(t *testing.T) {
	t.Run("tcp", func(t *testing.T) { forwardtest.TestConn(t, joinedPair(connPair)) })
	t.Run("memory", func(t *testing.T) { forwardtest.TestConn(t, joinedPair(memPair)) })
	t.Run("memory, no extras", func(t *testing.T) {
		forwardtest.TestConn(t, joinedPair(func() (a, b forward.Conn, stop func(), err error) {
			a, b = forwardtest.Pipe()
			return bare{a}, bare{b}, nil, nil
		}))
	})
}

// TestPipe runs the suite over io.Pipe, which can carry a cause.
func TestPipe(t *testing.T) {
	mk := func() (a, b forward.Conn, stop func(), err error) {
		ar, bw := io.Pipe()
		br, aw := io.Pipe()
		return forward.Pipe(ar, aw), forward.Pipe(br, bw), nil, nil
	}
	forwardtest.TestConn(t, mk)
}

// bare hides LazyReader and FrameWriter.
type bare struct{ forward.Conn }

func TestResetBy(t *testing.T) {
	wrapped := fmt.Errorf("read header: %w", io.EOF)
	tests := []struct {
		cause error
		text  string
		isnt  error
	}{
		{nil, "connection reset", io.EOF},
		{errOnPurpose, "connection reset: on purpose", io.EOF},
		{io.EOF, "connection reset: EOF", io.EOF},
		{wrapped, "connection reset: read header: EOF", io.EOF},
		{io.ErrUnexpectedEOF, "connection reset: unexpected EOF", io.EOF},
		{forward.ErrReset, "connection reset", io.EOF},
		{forward.ResetBy(errOnPurpose), "connection reset: on purpose", io.EOF},
	}
	for _, tt := range tests {
		err := forward.ResetBy(tt.cause)
		if err.Error() != tt.text || !errors.Is(err, forward.ErrReset) || errors.Is(err, tt.isnt) {
			t.Errorf("ResetBy(%v) = %v", tt.cause, err)
		}
		if tt.cause != nil && !errors.Is(tt.cause, io.EOF) && !errors.Is(err, tt.cause) {
			t.Errorf("ResetBy(%v) = %v has lost its cause", tt.cause, err)
		}
	}
}
