// Package connect is how the dialling end of a tunnel gets to a relay: TCP,
// through an HTTP proxy where there is one, TLS, the credential, and the
// session on top. Agents and clients share it.
package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// ErrNotRelay means that whoever answered does not speak this protocol.
var ErrNotRelay = errors.New("this is not a culvert relay")

// Dialer makes sessions to relays. TLS and ALPN must be set.
type Dialer struct {
	// TLS proves the relay, and this end if it holds a certificate. The server
	// name is taken from the address when empty.
	TLS *tls.Config

	// ALPN is the protocol to ask for: stream.ALPNAgent or stream.ALPNClient.
	ALPN string

	// Hello returns the credential and is asked at every attempt, so that one
	// that was replaced is found. nil: the certificate in TLS.
	Hello func() (*stream.Hello, error)

	// Proxy returns the HTTP proxy for a URL, or nil for none. nil: no proxy.
	Proxy func(*url.URL) (*url.URL, error)

	// Addr is where the relay is reached (host:port), for who has resolved its
	// name: what Dial is given then is what the relay must prove to be, and no
	// more. A proxy finds the relay by its name all the same. Empty: Dial connects
	// to what it is given.
	Addr string

	// Tunnel sets the limits of the session.
	Tunnel tunnel.Config
}

// Dial makes a session to the relay at addr (host:port). It ends with ctx. A
// relay that refuses the credential is a *stream.Error. The caller closes the
// session.
func (d *Dialer) Dial(ctx context.Context, addr string) (*tunnel.Session, error) {
	raw, err := d.reach(ctx, addr)
	if err != nil {
		return nil, err
	}
	carrier, err := tunnel.HandshakeClient(ctx, raw, d.tls(addr))
	if err != nil {
		return nil, err
	}
	if err := d.greet(ctx, carrier); err != nil {
		_ = carrier.Close()
		return nil, err
	}
	return tunnel.NewSession(carrier, true, d.Tunnel)
}

func (d *Dialer) tls(addr string) *tls.Config {
	tc := d.TLS.Clone()
	if tc == nil {
		tc = new(tls.Config)
	}
	if tc.ServerName == "" {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			tc.ServerName = host
		}
	}
	tc.NextProtos = []string{d.ALPN}
	tc.MinVersion = tls.VersionTLS13
	return tc
}

// greet presents the credential and reads the relay's verdict.
func (d *Dialer) greet(ctx context.Context, carrier *tunnel.Carrier) error {
	if carrier.State().NegotiatedProtocol != d.ALPN {
		return ErrNotRelay
	}
	hello := &stream.Hello{Credential: stream.CredentialTLS}
	if d.Hello != nil {
		h, err := d.Hello()
		if err != nil {
			return err
		}
		hello = h
	}
	err := within(ctx, carrier, func() error { return exchange(carrier, hello) })
	if err != nil {
		return fmt.Errorf("present credential: %w", err)
	}
	return nil
}

func exchange(carrier *tunnel.Carrier, hello *stream.Hello) error {
	if err := stream.WriteHello(carrier, hello); err != nil {
		return err
	}
	reply, err := stream.ReadReply(carrier)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	return reply.Err()
}

// within runs f, whose reads and writes on conn end with ctx.
func within(ctx context.Context, conn net.Conn, f func() error) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	err := f()
	if !stop() {
		<-interrupted
		return context.Cause(ctx)
	}
	return err
}

// Open opens a stream and sends its first message. It ends with ctx. The
// caller closes the stream.
func Open(ctx context.Context, s *tunnel.Session, o *stream.Open) (*tunnel.Stream, error) {
	return OpenWith(ctx, s, o, nil)
}

// OpenWith is Open with the first bytes of the connection, at most stream.MaxPayload
// of them, which go along in one write. No bytes, no frame.
func OpenWith(ctx context.Context, s *tunnel.Session, o *stream.Open, early []byte) (*tunnel.Stream, error) {
	b, err := stream.AppendOpen(make([]byte, 0, 256+len(early)), o)
	if err != nil {
		return nil, err
	}
	if len(early) > 0 {
		b = stream.AppendData(b, early)
	}
	st, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	err = within(ctx, st, func() error {
		_, err := st.Write(b)
		return err
	})
	if err != nil {
		_ = st.Reset()
		return nil, fmt.Errorf("write open: %w", err)
	}
	return st, nil
}

// Control returns a gRPC client on streams of s. The caller closes it.
func Control(s *tunnel.Session) (*grpc.ClientConn, error) {
	return rpc.Dial(func(ctx context.Context) (net.Conn, error) {
		return Open(ctx, s, &stream.Open{Kind: stream.KindControl, ID: stream.NewID()})
	})
}
