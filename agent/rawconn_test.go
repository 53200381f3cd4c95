package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
	"github.com/culvert-k8s/culvert/forward/tunnel"
)

// TestRawConn runs the suite of connections over raw streams of a session.
func TestRawConn(t *testing.T) {
	r := startRelay(t, &relay{})
	sc, ss := sessionPair(t, r.ca)
	accepted := make(chan *tunnel.Stream)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		_ = ss.Serve(ctx, func(st *tunnel.Stream) {
			select {
			case accepted <- st:
			case <-ctx.Done():
			}
		})
	})
	defer all.Wait()
	defer cancel()
	pair := func() (a, b forward.Conn, stop func(), err error) {
		st, err := sc.Open(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		return &rawConn{st: st, sess: sc}, &rawConn{st: <-accepted, sess: ss}, nil, nil
	}
	forwardtest.TestConn(t, pair)
	forwardtest.TestErrReset(t, pair)

	a, b, _, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := errors.Join(b.CloseWrite(), a.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	sc.Close()
	if err := a.(forward.AbortWaiter).WaitAbort(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after the end of the session: %v", err)
	}
}

// sessionPair makes a session with itself.
func sessionPair(t testing.TB, ca *authority) (client, server *tunnel.Session) {
	t.Helper()
	ln := reachtest.Listen(t)
	cert := ca.server(t)
	type end struct {
		sess *tunnel.Session
		err  error
	}
	made := make(chan end, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			made <- end{nil, err}
			return
		}
		c, err := tunnel.HandshakeServer(context.Background(), raw, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13})
		if err != nil {
			made <- end{nil, err}
			return
		}
		s, err := tunnel.NewSession(c, false, tunnel.Config{})
		made <- end{s, err}
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := tunnel.HandshakeClient(context.Background(), raw, &tls.Config{RootCAs: ca.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	client, err = tunnel.NewSession(c, true, tunnel.Config{})
	far := <-made
	if err = errors.Join(err, far.err); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); far.sess.Close() })
	return client, far.sess
}
