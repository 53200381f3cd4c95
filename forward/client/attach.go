package client

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// attachRelay makes a session to one relay. It ends with ctx. A token that the
// relay refuses is replaced once, where it can be.
func (c *Client) attachRelay(ctx context.Context, relay Relay) (session, error) {
	s, err := c.dialRelay(ctx, relay)
	if c.cfg.Expired != nil && errors.Is(err, &stream.Error{Code: stream.Unauthenticated}) {
		c.cfg.Expired()
		s, err = c.dialRelay(ctx, relay)
	}
	if err != nil {
		return nil, cureless(err)
	}
	return newTunnelSession(s)
}

func (c *Client) dialRelay(ctx context.Context, relay Relay) (*tunnel.Session, error) {
	d := connect.Dialer{
		TLS:    relay.TLS,
		ALPN:   stream.ALPNClient,
		Proxy:  c.cfg.Proxy,
		Addr:   relay.at,
		Tunnel: c.cfg.Tunnel,
	}
	if c.cfg.Token != nil {
		d.Hello = func() (*stream.Hello, error) {
			token, err := c.cfg.Token()
			if err != nil {
				return nil, &tokenError{err}
			}
			if token == "" {
				return &stream.Hello{Credential: stream.CredentialTLS}, nil
			}
			return &stream.Hello{Credential: stream.CredentialToken, Token: token}, nil
		}
	}
	return d.Dial(ctx, relay.Addr)
}

// tokenError marks a token that could not be had, which passes: whoever
// replaces the file may not be done yet.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// cureless marks an error of an attempt as final unless it comes from the
// network, or from a relay that is busy or leaving.
func cureless(err error) error {
	var refused *stream.Error
	var op *net.OpError
	var network net.Error
	var token *tokenError
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
		errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed), errors.As(err, &token):
		return err
	}
	// What is left was found by this side: a certificate that does not verify,
	// a peer that does not speak the protocol.
	return &finalError{err}
}
