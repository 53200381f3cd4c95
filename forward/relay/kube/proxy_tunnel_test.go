package kube

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/culvert-k8s/culvert/forward/tunnel"
)

// streamListener is a listener whose connections are the streams of a session.
type streamListener struct {
	*tunnel.Session
	ctx  context.Context
	stop context.CancelFunc
}

func (l *streamListener) Accept() (net.Conn, error) {
	st, err := l.Session.Accept(l.ctx)
	if err != nil {
		return nil, err // no Stream that is nil within an interface that is not
	}
	return st, nil
}

func (l *streamListener) Close() error   { l.stop(); return nil }
func (l *streamListener) Addr() net.Addr { return l.LocalAddr() }

// tunnelPair makes a tunnel: the relay's end of it and the agent's.
func tunnelPair(t *testing.T) (relays, agents *tunnel.Session) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for conn, s := range map[net.Conn]**tunnel.Session{a: &agents, b: &relays} {
		if *s, err = tunnel.NewSession(tunnel.Plain(conn), s == &agents, tunnel.Config{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = (*s).CloseWithError(nil) })
	}
	return relays, agents
}

// A private cluster: the API server is at the other end of a tunnel, TLS to it
// runs inside a stream, and net/http at that end takes the connection over, for
// which it interrupts its own read with a deadline. A stream whose deadlines are
// not those of a socket spoils TLS for good then.
func TestUpgradeInsideATunnel(t *testing.T) {
	relays, agents := tunnelPair(t)
	answer := echo(t, "SPDY/3.1", func(_ net.Conn, rw *bufio.ReadWriter) {
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = rw.WriteString("got " + line)
			_ = rw.Flush()
		}
	})
	rig := newFrontRig(t, rigConfig{
		api: func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				answer(w, r)
			}
		},
		kube: func(c *Config) {
			c.APIServer = "https://example.com"
			c.DialAPI = func(ctx context.Context) (net.Conn, error) {
				st, err := relays.Open(ctx)
				if err != nil {
					return nil, err
				}
				return st, nil
			}
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	api := &http.Server{
		Handler: rig.api.Config.Handler, ReadHeaderTimeout: patienceInTests, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		TLSConfig: &tls.Config{Certificates: rig.api.TLS.Certificates, NextProtos: []string{protoHTTP1}},
	}
	served := make(chan error, 1)
	go func() { served <- api.ServeTLS(&streamListener{agents, ctx, stop}, "", "") }()
	defer func() { <-served }()
	defer stop()

	c := upgraded(t, rig, "")
	for i := range 10 { // the reader has to work for good, not once
		line := fmt.Sprintf("line %d\n", i)
		if _, err := c.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.ReadString('\n'); got != "got "+line || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	_ = c.CloseWrite()
	if b, err := c.ReadByte(); err == nil {
		t.Errorf("read %q", b)
	}
	rig.awaitLine("upgraded session ended")
}
