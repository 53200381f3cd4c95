package rpc

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// view answers About with the identity and the address of its caller, and
// ListNodes with a message of a wanted size.
type view struct {
	controlv1.UnimplementedViewServer
	size int
}

func (v *view) About(ctx context.Context, _ *controlv1.AboutRequest) (*controlv1.AboutResponse, error) {
	name, _ := Peer(ctx).(string)
	p, _ := peer.FromContext(ctx)
	return &controlv1.AboutResponse{User: name, RelayId: p.Addr.Network()}, nil
}

func (v *view) ListNodes(context.Context, *controlv1.ListNodesRequest) (*controlv1.ListNodesResponse, error) {
	return &controlv1.ListNodesResponse{Nodes: []*controlv1.NodeInfo{{Name: strings.Repeat("n", v.size)}}}, nil
}

// serve runs a server on a new listener until the test ends.
func serve(t *testing.T, v *view) *Listener {
	t.Helper()
	l := NewListener()
	s := NewServer()
	controlv1.RegisterViewServer(s, v)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l
}

// pipeTo returns an open function that delivers one end of a pipe to l.
func pipeTo(l *Listener, peer any) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		if err := l.Deliver(far, peer); err != nil {
			near.Close()
			return nil, err
		}
		return near, nil
	}
}

func client(t *testing.T, open func(context.Context) (net.Conn, error), extra ...grpc.DialOption) controlv1.ViewClient {
	t.Helper()
	cc, err := Dial(open, extra...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return controlv1.NewViewClient(cc)
}

func TestHandlerLearnsDeliveredPeer(t *testing.T) {
	l := serve(t, &view{})
	for _, name := range []string{"node-1", "node-2"} {
		got, err := client(t, pipeTo(l, name)).About(t.Context(), &controlv1.AboutRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got.GetUser() != name || got.GetRelayId() != "pipe" {
			t.Errorf("handler saw peer %q on %q, want %q on pipe", got.GetUser(), got.GetRelayId(), name)
		}
	}
}

func TestOverTCP(t *testing.T) {
	front, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := serve(t, &view{size: MaxMessage - 64})
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := front.Accept()
			if err != nil {
				return
			}
			if err := l.Deliver(conn, "tcp"); err != nil {
				t.Errorf("Deliver: %v", err)
			}
		}
	}()
	t.Cleanup(func() { front.Close(); <-accepted })

	c := client(t, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", front.Addr().String())
	})
	got, err := c.ListNodes(t.Context(), &controlv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.GetNodes()[0].GetName()); n != MaxMessage-64 {
		t.Errorf("got a name of %d bytes, want %d", n, MaxMessage-64)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	l := serve(t, &view{size: MaxMessage})
	tests := []struct {
		name  string
		extra []grpc.DialOption
		call  func(c controlv1.ViewClient) error
	}{
		{
			name: "answer above the server's limit",
			// The client would take it: the server must not send it.
			extra: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(4 * MaxMessage))},
			call: func(c controlv1.ViewClient) error {
				_, err := c.ListNodes(t.Context(), &controlv1.ListNodesRequest{})
				return err
			},
		},
		{
			name: "question above the client's limit",
			call: func(c controlv1.ViewClient) error {
				_, err := c.ListPods(t.Context(), &controlv1.ListPodsRequest{Namespace: strings.Repeat("n", MaxMessage)})
				return err
			},
		},
		{
			name:  "question above the server's limit",
			extra: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(4 * MaxMessage))},
			call: func(c controlv1.ViewClient) error {
				_, err := c.ListPods(t.Context(), &controlv1.ListPodsRequest{Namespace: strings.Repeat("n", MaxMessage)})
				return err
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call(client(t, pipeTo(l, nil), tt.extra...))
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("got %v, want ResourceExhausted", err)
			}
		})
	}
}

func TestUndeliveredConnectionIsRefused(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if _, _, err := TransportCredentials().ServerHandshake(far); !errors.Is(err, ErrNotDelivered) {
		t.Errorf("got %v, want ErrNotDelivered", err)
	}
	if Peer(t.Context()) != nil {
		t.Error("a context without a call has a peer")
	}
}

func TestCallFailsWithTheReasonOfOpen(t *testing.T) {
	refuse := func(context.Context) (net.Conn, error) { return nil, errors.New("agent offline") }
	_, err := client(t, refuse).About(t.Context(), &controlv1.AboutRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "agent offline") {
		t.Errorf("got %v, want Unavailable with the reason", err)
	}
}

func TestNextCallOpensANewStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := pipeTo(serve(t, &view{}), "node-1")
		var last net.Conn
		c := client(t, func(ctx context.Context) (net.Conn, error) {
			conn, err := open(ctx)
			last = conn
			return conn, err
		})
		for range 3 {
			if _, err := c.About(t.Context(), &controlv1.AboutRequest{}); err != nil {
				t.Fatal(err)
			}
			last.Close()
			synctest.Wait() // until the client has noticed
		}
	})
}

// A session that is gone must not be asked for streams for ever.
func TestNoReconnectStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Int64
		c := client(t, func(context.Context) (net.Conn, error) {
			opened.Add(1)
			return nil, errors.New("session is dead")
		})
		if opened.Load() != 0 {
			t.Fatal("Dial opened a stream before the first call")
		}
		if _, err := c.About(t.Context(), &controlv1.AboutRequest{}); status.Code(err) != codes.Unavailable {
			t.Fatalf("got %v, want Unavailable", err)
		}
		time.Sleep(2 * idleTimeout)
		synctest.Wait()
		n := opened.Load()
		if n > 8 {
			t.Errorf("%d attempts in the two minutes after a failed call", n)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got := opened.Load(); got != n {
			t.Errorf("%d attempts in a day without calls", got-n)
		}
	})
}

func TestIdleConnectionIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serve(t, &view{})
		var opened atomic.Int64
		open := pipeTo(l, nil)
		c := client(t, func(ctx context.Context) (net.Conn, error) {
			opened.Add(1)
			return open(ctx)
		})
		for want := range int64(3) {
			if _, err := c.About(t.Context(), &controlv1.AboutRequest{}); err != nil {
				t.Fatal(err)
			}
			if got := opened.Load(); got != want+1 {
				t.Errorf("%d streams opened, want %d", got, want+1)
			}
			time.Sleep(2*idleTimeout + time.Second)
		}
	})
}

// A peer that opens a stream and says nothing must not hold it.
func TestSilentPeerIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serve(t, &view{})
		near, far := net.Pipe()
		defer near.Close()
		if err := l.Deliver(far, nil); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		buf := make([]byte, 512)
		for {
			if _, err := near.Read(buf); err != nil {
				break
			}
		}
		if took := time.Since(start); took > handshakeTimeout {
			t.Errorf("dropped after %v, want %v", took, handshakeTimeout)
		}
	})
}
