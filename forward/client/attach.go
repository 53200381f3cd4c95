package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// attachRelay makes a session to one relay: TCP, through a proxy if there is
// one, TLS, and the credential. It ends with ctx.
func (c *Client) attachRelay(ctx context.Context, relay Relay) (session, error) {
	raw, err := c.reach(ctx, relay.Addr)
	if err != nil {
		return nil, err
	}
	carrier, err := tunnel.HandshakeClient(ctx, raw, relay.config())
	if err != nil {
		return nil, cureless(err)
	}
	if err := c.greet(ctx, carrier); err != nil {
		carrier.Close() //nolint:errcheck // the refusal is what matters
		return nil, cureless(err)
	}
	s, err := tunnel.NewSession(carrier, true, c.cfg.Tunnel)
	if err != nil {
		return nil, err
	}
	return newTunnelSession(s)
}

// config returns the TLS settings for one connection.
func (r Relay) config() *tls.Config {
	tc := r.TLS.Clone()
	if tc == nil {
		tc = new(tls.Config)
	}
	if tc.ServerName == "" {
		if host, _, err := net.SplitHostPort(r.Addr); err == nil {
			tc.ServerName = host
		}
	}
	tc.NextProtos = []string{stream.ALPNClient}
	tc.MinVersion = tls.VersionTLS13
	return tc
}

// greet presents the credential and reads the relay's verdict.
func (c *Client) greet(ctx context.Context, carrier *tunnel.Carrier) error {
	if carrier.State().NegotiatedProtocol != stream.ALPNClient {
		return &finalError{errors.New("this is not a culvert relay")}
	}
	hello := stream.Hello{Credential: stream.CredentialTLS}
	if c.cfg.Token != nil {
		token, err := c.cfg.Token()
		if err != nil {
			return err
		}
		hello = stream.Hello{Credential: stream.CredentialToken, Token: token}
	}
	// A deadline in the past frees a read or write that waits when ctx ends.
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		carrier.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // a closed connection waits for nothing
	})
	err := exchange(carrier, &hello)
	if !stop() {
		<-interrupted
		return fmt.Errorf("present credential: %w", context.Cause(ctx))
	}
	return err
}

func exchange(carrier *tunnel.Carrier, hello *stream.Hello) error {
	if err := stream.WriteHello(carrier, hello); err != nil {
		return err
	}
	reply, err := stream.ReadReply(carrier)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("answer to the credential: %w", err)
	}
	return reply.Err()
}

// cureless marks an error of the handshake or the greeting as final unless it
// comes from the network or from a relay that is busy or leaving.
func cureless(err error) error {
	var refused *stream.Error
	var op *net.OpError
	var network net.Error
	switch {
	case errors.As(err, &refused):
		switch refused.Code {
		case stream.Unauthenticated, stream.Forbidden, stream.Unsupported, stream.Malformed, stream.Policy:
			return &finalError{err}
		}
		return err
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return &finalError{err} // a TLS alert: one end refused a certificate or the protocol
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &network),
		errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return err
	}
	// What is left was found by this side: a certificate that does not verify,
	// a peer that does not speak TLS.
	return &finalError{err}
}
