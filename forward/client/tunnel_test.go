package client_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/client/relaytest"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// echoServer answers with what it got once it got all of it.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				if b, err := io.ReadAll(c); err == nil {
					c.Write(b)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// config is how a client reaches r by its pin.
func config(t *testing.T, r *relaytest.Relay, pin string) client.Config {
	t.Helper()
	tc, err := identity.ClientTLS(identity.ClientConfig{ServerName: "127.0.0.1", ALPN: stream.ALPNClient, CAPin: pin})
	if err != nil {
		t.Fatal(err)
	}
	return client.Config{
		Relays: []client.Relay{{Addr: r.Addr, TLS: tc}},
		Token:  func() (string, error) { return relaytest.Token, nil },
	}
}

func ask(t *testing.T, c *client.Client, target client.Target) (string, error) {
	t.Helper()
	conn, err := c.Open(t.Context(), target, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("question")); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

func TestThroughARelay(t *testing.T) {
	r := relaytest.Start(t)
	r.AddPod("default", "web", echoServer(t))
	r.AddPod("default", "idle", "127.0.0.1:1")
	c := client.New(config(t, r, r.Pin))
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	if got, err := ask(t, c, client.Target{Namespace: "default", Pod: "web", Port: 80}); got != "question" || err != nil {
		t.Errorf("echo = %q, %v", got, err)
	}
	if _, err := c.FindPod(t.Context(), "default", "web"); err != nil {
		t.Errorf("FindPod: %v", err)
	}
	for pod, want := range map[string]stream.Code{"idle": stream.NotListening, "gone": stream.PodNotFound} {
		target := client.Target{Namespace: "default", Pod: pod, Port: 80}
		if _, err := c.Dial(t.Context(), target); stream.CodeOf(err) != want {
			t.Errorf("Dial %v = %v, want %v", target, err, want)
		}
		conn, err := c.Open(t.Context(), target, nil)
		if err != nil {
			t.Errorf("Open %v = %v, want the refusal from Read", target, err)
			continue
		}
		if _, err := conn.Read(make([]byte, 1)); stream.CodeOf(err) != want {
			t.Errorf("Read after Open %v = %v, want %v", target, err, want)
		}
		conn.Close()
	}
	// The pod gets what was sent before its answer was known.
	if opened := r.Opened(); opened[0].Pod != "web" || opened[0].Port != 80 || opened[0].ID == (stream.ID{}) {
		t.Errorf("opened %+v", opened[0])
	}
}

func TestSessionComesBackAfterACut(t *testing.T) {
	r := relaytest.Start(t)
	r.AddPod("default", "web", echoServer(t))
	c := client.New(config(t, r, r.Pin))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	target := client.Target{Namespace: "default", Pod: "web", Port: 80}
	hold, err := c.Dial(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	r.Cut()
	if _, err := hold.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read on a cut session = %v, want an error that is no end", err)
	}
	hold.Close()
	if got, err := ask(t, c, target); got != "question" || err != nil {
		t.Errorf("after the cut: %q, %v", got, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestRefusedForGood(t *testing.T) {
	r := relaytest.Start(t)
	wrongToken := config(t, r, r.Pin)
	wrongToken.Token = func() (string, error) { return "some-other-token-than-that", nil }
	wrongPin := config(t, r, identity.Pin{1, 2, 3}.String())
	notARelay := config(t, r, r.Pin)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var server http.Server
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(plain) }()
	defer func() { server.Close(); <-done }()
	notARelay.Relays[0].Addr = plain.Addr().String()

	for name, cfg := range map[string]client.Config{"token": wrongToken, "pin": wrongPin, "peer": notARelay} {
		err := client.New(cfg).Run(t.Context()) // would not return for what can be cured
		t.Logf("wrong %s: %v", name, err)
		if err == nil {
			t.Errorf("wrong %s: Run = nil", name)
		}
		if name == "token" && stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("wrong token: %v", err)
		}
	}
}

func TestNetworkErrorIsNotFinal(t *testing.T) {
	r := relaytest.Start(t)
	cfg := config(t, r, r.Pin)
	cfg.Relays[0].Addr = "127.0.0.1:1"
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Notify = func(e client.Event) {
		if e.Kind != client.Failed || !errors.Is(e.Err, syscall.ECONNREFUSED) {
			t.Errorf("event %+v", e)
		}
		cancel()
	}
	if err := client.New(cfg).Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestTokenFileThatIsMissingForAMoment(t *testing.T) {
	r := relaytest.Start(t)
	cfg := config(t, r, r.Pin)
	file := filepath.Join(t.TempDir(), "token")
	cfg.Token = func() (string, error) {
		b, err := os.ReadFile(file)
		return string(b), err
	}
	var tries atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Notify = func(e client.Event) {
		switch {
		case e.Kind == client.Attached:
			cancel()
		case tries.Add(1) == 2:
			os.WriteFile(file, []byte(relaytest.Token), 0o600)
		}
	}
	if err := client.New(cfg).Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestThroughAnHTTPProxy(t *testing.T) {
	r := relaytest.Start(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	asked := make(chan *http.Request, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		asked <- req
		up, err := net.Dial("tcp", req.Host)
		if err != nil {
			return
		}
		defer up.Close()
		c.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
		var back sync.WaitGroup
		back.Go(func() { io.Copy(c, up); c.Close() })
		io.Copy(up, c)
		up.Close()
		back.Wait()
	}()
	cfg := config(t, r, r.Pin)
	cfg.Proxy = func(u *url.URL) (*url.URL, error) {
		if u.Scheme != "https" || u.Host != r.Addr {
			t.Errorf("proxy asked for %v", u)
		}
		return &url.URL{Scheme: "http", Host: ln.Addr().String(), User: url.UserPassword("me", "pw")}, nil
	}
	c := client.New(cfg)
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	req := <-asked
	if req.Method != http.MethodConnect || req.Header.Get("Proxy-Authorization") != "Basic bWU6cHc=" {
		t.Errorf("proxy got %s %v", req.Method, req.Header)
	}
	c.Close()
	<-done
}
