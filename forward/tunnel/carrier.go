package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Carrier is the connection a Session runs on. Before a session takes it, it
// is a plain net.Conn, so that both ends can prove who they are before
// anything is allocated for them.
//
// Whoever made a Carrier closes it, until NewSession takes it.
type Carrier struct {
	net.Conn          // TLS, or the bare connection
	raw      net.Conn // what lies at the bottom; closing it never blocks
	rec      *recordConn
	tls      *tls.Conn // nil without TLS
}

// HandshakeClient makes TLS as a client over raw. It owns raw: on error raw is
// closed. The handshake ends with ctx.
func HandshakeClient(ctx context.Context, raw net.Conn, tc *tls.Config) (*Carrier, error) {
	rec := newRecordConn(raw)
	return handshake(ctx, rec, tls.Client(rec, tc))
}

// HandshakeServer makes TLS as a server over raw. It owns raw: on error raw is
// closed. The handshake ends with ctx.
func HandshakeServer(ctx context.Context, raw net.Conn, tc *tls.Config) (*Carrier, error) {
	rec := newRecordConn(raw)
	return handshake(ctx, rec, tls.Server(rec, tc))
}

func handshake(ctx context.Context, rec *recordConn, tc *tls.Conn) (*Carrier, error) {
	tuneSocket(bottom(rec.Conn))
	if err := tc.HandshakeContext(ctx); err != nil {
		rec.Conn.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("tls handshake with %s: %w", rec.RemoteAddr(), err)
	}
	return &Carrier{Conn: tc, raw: bottom(rec.Conn), rec: rec, tls: tc}, nil
}

// Plain makes a carrier without TLS, for a connection that is safe already.
func Plain(raw net.Conn) *Carrier {
	tuneSocket(bottom(raw))
	rec := newRecordConn(raw)
	return &Carrier{Conn: rec, raw: bottom(raw), rec: rec}
}

// bottom returns the connection beneath c if c is itself TLS, as it is to an
// HTTPS proxy: to close TLS may wait for the peer.
func bottom(c net.Conn) net.Conn {
	for {
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = inner.NetConn()
	}
}

// State returns what TLS agreed on: the application protocol and the peer's
// certificates. It is the zero value without TLS.
func (c *Carrier) State() tls.ConnectionState {
	if c.tls == nil {
		return tls.ConnectionState{}
	}
	return c.tls.ConnectionState()
}

// RoundTrip returns the kernel's estimate of the round-trip time, 0 where it
// is not known.
func (c *Carrier) RoundTrip() time.Duration { return roundTrip(c.raw) }

// HandOver gives the TLS connection away to a protocol of its own, on which no
// session will run; nil without TLS. It takes back what only a tunnel wants of its
// socket: elsewhere a peer that reads nothing for minutes is no fault. The caller
// owns the connection from now on, and does not use the Carrier any more.
func (c *Carrier) HandOver() *tls.Conn {
	if c.tls != nil {
		untuneSocket(c.raw)
	}
	return c.tls
}

// cut ends the connection at once. It never waits for the peer, unlike
// tls.Conn.Close, which may wait for room to send its farewell.
func (c *Carrier) cut() { c.raw.Close() }

// Close says farewell in TLS and ends the connection.
func (c *Carrier) Close() error {
	c.raw.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a closed connection needs none
	return c.Conn.Close()
}
