package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

var bob = Call{
	Who:  Identity{Role: RoleUser, Name: "bob"},
	From: "192.0.2.1:1", Target: Target{Namespace: "shop", Pod: "web", Port: 80}, Door: "kubectl-test",
}

// dialling is a Dial under way.
type dialling struct {
	link *Link
	err  error
	done chan struct{}
}

func (r *rig) dial(ctx context.Context, c Call) *dialling {
	d := &dialling{done: make(chan struct{})}
	r.work.Go(func() {
		defer close(d.done)
		d.link, d.err = r.s.Dial(ctx, c)
	})
	return d
}

// linked makes a link that the pod has accepted.
func (r *rig) linked(node *link) (*Link, *tunnel.Stream) {
	r.t.Helper()
	d := r.dial(within(r.t), bob)
	a, open := node.accept()
	if open.UID != "uid-1" || open.User != "bob" || open.Pod != "web" {
		r.t.Errorf("agent is asked for %+v", open)
	}
	answer(r.t, a, stream.OK, "")
	<-d.done
	if d.err != nil {
		r.t.Fatal(d.err)
	}
	return d.link, a
}

// joined joins a link with a TCP connection and returns the client's end of it.
func (r *rig) joined(ctx context.Context, l *Link) (client forward.Conn, done <-chan error) {
	r.t.Helper()
	near, far := tcpPair(r.t)
	out := make(chan error, 1)
	r.work.Go(func() { out <- l.Join(ctx, forward.TCP(near)) })
	return forward.TCP(far), out
}

func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

func TestLinkCarriesBothWaysToTheirEnds(t *testing.T) {
	r := newRig(t, Config{})
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	l, a := r.linked(node)
	if fs := r.s.flows.list(); len(fs) != 1 || fs[0].door != "kubectl-test" || fs[0].place().Node != "node-a" {
		t.Errorf("running: %+v", fs)
	}
	c, done := r.joined(within(t), l)
	if _, err := c.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	if got := next(a); got != "request" {
		t.Errorf("agent reads %q", got)
	}
	_ = c.CloseWrite()
	if got := next(a); got != "fin" {
		t.Errorf("agent reads %q", got)
	}
	write(t, a, data("late "), data("answer"), fin())
	if b, err := readAll(c); err != nil || string(b) != "late answer" {
		t.Errorf("client reads %q, %v", b, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	_, _ = c.Close(), a.Close()
	if code := r.verdict(1); code != "ok" {
		t.Errorf("logged as %s", code)
	}
	line := r.log.all(t, "stream")[0]
	for field, want := range map[string]any{
		"user": "bob", "node": "node-a", "pod": "shop/web", "uid": "uid-1", "port": 80.0, "from": "192.0.2.1:1",
		"door": "kubectl-test", "bytes_up": 7.0, "bytes_down": 11.0, "code": "ok", "reason": "",
	} {
		if line[field] != want {
			t.Errorf("%s is %v, want %v", field, line[field], want)
		}
	}
	var m bytes.Buffer
	r.s.WriteMetrics(&m)
	for _, want := range []string{
		`culvert_relay_streams_total{code="ok",door="kubectl-test"} 1`,
		`culvert_relay_payload_bytes_total{direction="up"} 7`, `culvert_relay_payload_bytes_total{direction="down"} 11`,
	} {
		if !strings.Contains(m.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, &m)
		}
	}
	if err := l.Join(t.Context(), forward.Pipe(io.NopCloser(strings.NewReader("")), nopWriter{})); err == nil || l.Close() != nil {
		t.Error("a link was joined twice")
	}
	r.quiet(node)
}

type nopWriter struct{ io.Writer }

func (nopWriter) Close() error { return nil }

func readAll(c forward.Conn) ([]byte, error) {
	var out []byte
	buf := make([]byte, 1<<10)
	for {
		n, err := c.Read(buf)
		out = append(out, buf[:n]...)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

// How a link ends that does not end well: what the client's side hears and the
// agent, and what is logged.
func TestLinkEndings(t *testing.T) {
	for name, tc := range map[string]struct {
		act   func(t *testing.T, n *link, c forward.Conn, a *tunnel.Stream, cut context.CancelCauseFunc)
		code  stream.Code
		agent string
	}{
		"pod resets": {func(t *testing.T, _ *link, _ forward.Conn, a *tunnel.Stream, _ context.CancelCauseFunc) {
			write(t, a, stream.AppendReset(nil, stream.PodReset, "it said so"))
			_ = a.CloseWrite()
		}, stream.PodReset, ""},
		"agent breaks off": {func(_ *testing.T, _ *link, _ forward.Conn, a *tunnel.Stream, _ context.CancelCauseFunc) {
			_ = a.CloseWrite()
		}, stream.Canceled, "reset(canceled)"},
		"agent resets": {func(_ *testing.T, _ *link, _ forward.Conn, a *tunnel.Stream, _ context.CancelCauseFunc) {
			_ = a.Reset()
		}, stream.Canceled, ""},
		"noise": {func(t *testing.T, _ *link, _ forward.Conn, a *tunnel.Stream, _ context.CancelCauseFunc) {
			write(t, a, []byte("GET / HTTP/1.1\r\n"))
		}, stream.Malformed, "reset(malformed)"},
		"way is lost": {func(_ *testing.T, n *link, _ forward.Conn, _ *tunnel.Stream, _ context.CancelCauseFunc) {
			_ = n.raw.Close()
		}, stream.Unreachable, ""},
		"client resets": {func(_ *testing.T, _ *link, c forward.Conn, _ *tunnel.Stream, _ context.CancelCauseFunc) {
			_ = c.Reset(nil)
		}, stream.Canceled, "reset(canceled)"},
		"relay cuts": {func(_ *testing.T, _ *link, _ forward.Conn, _ *tunnel.Stream, cut context.CancelCauseFunc) {
			cut(errShutdown)
		}, stream.GoingAway, "reset(going-away)"},
		"request ends": {func(_ *testing.T, _ *link, _ forward.Conn, _ *tunnel.Stream, cut context.CancelCauseFunc) {
			cut(nil)
		}, stream.Canceled, "reset(canceled)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			l, a := r.linked(node)
			ctx, cut := context.WithCancelCause(within(t))
			defer cut(nil)
			c, done := r.joined(ctx, l)
			write(t, a, data("abc"))
			if b := make([]byte, 3); readFull(c, b) != nil || string(b) != "abc" {
				t.Errorf("client reads %q", b)
			}
			tc.act(t, node, c, a, cut)
			if err := <-done; stream.CodeOf(err) != tc.code && stream.CodeOf(err) != stream.Internal {
				t.Errorf("join: %v", err)
			}
			if _, err := readAll(c); !errors.Is(err, forward.ErrReset) {
				t.Errorf("client reads %v", err)
			}
			if tc.agent != "" {
				if got := rest(t, a); got != tc.agent {
					t.Errorf("agent sees %q, want %q", got, tc.agent)
				}
			}
			if got := r.verdict(1); got != tc.code.String() {
				t.Errorf("logged as %s", got)
			}
			_, _ = c.Close(), a.Close()
			r.quiet(node)
		})
	}
}

func readFull(c forward.Conn, b []byte) error {
	for len(b) > 0 {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// A client that takes nothing does not hide that the way to the pod is lost.
func TestLostWayIsNoticedBehindASlowClient(t *testing.T) {
	r := newRig(t, Config{})
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	l, a := r.linked(node)
	near, far := net.Pipe() // nobody reads from far
	done := make(chan error, 1)
	r.work.Go(func() { done <- l.Join(within(t), forward.Pipe(near, near)) })
	write(t, a, data("abc"))
	node.roundTrip()
	_ = node.raw.Close()
	if err := <-done; stream.CodeOf(err) != stream.Unreachable {
		t.Errorf("join: %v", err)
	}
	if got := r.verdict(1); got != "unreachable" {
		t.Errorf("logged as %s", got)
	}
	_ = far.Close()
}

func TestDialRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		call   func(c *Call)
		answer func(n *link, a *tunnel.Stream) // nil: no agent is asked
		code   stream.Code
		text   string
	}{
		"no pod":      {call: func(c *Call) { c.Target.Pod = "" }, code: stream.Malformed},
		"unknown pod": {call: func(c *Call) { c.Target.Pod = "nobody" }, code: stream.PodNotFound},
		"may not":     {call: func(c *Call) { c.Target.Port = 22 }, code: stream.Forbidden, text: "no ssh"},
		"fault":       {call: func(c *Call) { c.Target.Port = 23 }, code: stream.Internal, text: "its log tells why under"},
		"refusal":     {answer: func(_ *link, a *tunnel.Stream) { refuse(a, stream.NotListening) }, code: stream.NotListening, text: "not here"},
		"future":      {answer: func(_ *link, a *tunnel.Stream) { refuse(a, 999) }, code: 999},
		"going away":  {answer: func(_ *link, a *tunnel.Stream) { refuse(a, stream.GoingAway) }, code: stream.AgentOffline},
		"noise":       {answer: func(_ *link, a *tunnel.Stream) { _, _ = a.Write(make([]byte, 6)) }, code: stream.Malformed, text: "broke the protocol"},
		"cut":         {answer: func(_ *link, a *tunnel.Stream) { _ = a.CloseWrite() }, code: stream.Canceled},
		"reset":       {answer: func(_ *link, a *tunnel.Stream) { _ = a.Reset() }, code: stream.Canceled},
		"lost":        {answer: func(n *link, _ *tunnel.Stream) { _ = n.raw.Close() }, code: stream.AgentOffline},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Authorize: gate{}})
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			c := bob
			if tc.call != nil {
				tc.call(&c)
			}
			d := r.dial(within(t), c)
			if tc.answer != nil {
				a, _ := node.accept()
				tc.answer(node, a)
				defer a.Close()
			}
			<-d.done
			refusal, ok := d.err.(*stream.Error)
			if !ok || d.link != nil || refusal.Code != tc.code || !strings.Contains(refusal.Text, tc.text) || strings.Contains(refusal.Text, "secret") {
				t.Fatalf("%v (%T), want %s", d.err, d.err, tc.code)
			}
			if got := r.verdict(1); got != tc.code.String() {
				t.Errorf("logged as %s", got)
			}
			if r.s.flows.len() != 0 || len(r.s.flows.list()) != 0 {
				t.Error("a stream is counted")
			}
		})
	}
}

// Whoever gives a Dial up, and whenever: nothing is left behind.
func TestDialIsGivenUp(t *testing.T) {
	for name, before := range map[string]bool{"before the open": true, "before the answer": false} {
		t.Run(name, func(t *testing.T) {
			m := &memory{places: []Place{oldPlace}}
			r := newRig(t, Config{Locate: m})
			node, _ := r.node("node-a")
			ctx, cancel := context.WithCancel(t.Context())
			if before {
				m.wait, m.forgotten = make(chan struct{}), []Place{{}}
			}
			d := r.dial(ctx, bob)
			var a *tunnel.Stream
			if before {
				eventually(t, "it is looked for", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.asked == 1 })
			} else {
				a, _ = node.accept()
			}
			cancel()
			<-d.done
			if stream.CodeOf(d.err) != stream.Canceled {
				t.Errorf("dial: %v", d.err)
			}
			if a != nil {
				if got := rest(t, a); got != "reset(canceled)" {
					t.Errorf("agent sees %q", got)
				}
				_ = a.Close()
			}
			r.quiet(node)
		})
	}
	t.Run("after the answer", func(t *testing.T) {
		r := newRig(t, Config{})
		node, tun := r.node("node-a")
		r.report(tun, "shop/web=uid-1")
		l, a := r.linked(node)
		if r.s.flows.len() != 1 {
			t.Error("a link does not count")
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { _ = l.Close() })
		}
		both.Wait()
		if got := rest(t, a); got != "reset(canceled)" {
			t.Errorf("agent sees %q", got)
		}
		if got := r.verdict(1); got != "canceled" {
			t.Errorf("logged as %s", got)
		}
		_ = a.Close()
		r.quiet(node)
	})
}

func TestDialWaitsForNoAgentForLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{OpenTimeout: 15 * time.Second})
		node, tun := r.node("node-a")
		r.report(tun, "shop/web=uid-1")
		began := time.Now()
		d := r.dial(t.Context(), bob)
		a, _ := node.accept()
		<-d.done
		if took := time.Since(began); stream.CodeOf(d.err) != stream.Timeout || took < 15*time.Second || took > 16*time.Second {
			t.Errorf("%v after %s", d.err, took)
		}
		if got := rest(t, a); got != "reset(timeout)" {
			t.Errorf("agent sees %q", got)
		}
		_ = a.Close()
		r.quiet(node)
		r.hangUp(node)
	})
}

func TestDialTriesOnceMore(t *testing.T) {
	r, _, _, a, b := moved(t)
	d := r.dial(within(t), bob)
	wrong, _ := a.accept()
	refuse(wrong, stream.NamespaceGone)
	right, open := b.accept()
	if open.UID != "uid-2" {
		t.Errorf("asked for %s", open.UID)
	}
	answer(t, right, stream.OK, "")
	<-d.done
	if d.err != nil {
		t.Fatal(d.err)
	}
	_ = d.link.Close()
	_, _ = right.Close(), wrong.Close()
	if line := r.log.all(t, "stream"); len(line) != 1 || line[0]["node"] != "node-b" {
		t.Errorf("logged %v", line)
	}
	r.quiet(a, b)
}

func TestReaches(t *testing.T) {
	r := newRig(t, Config{})
	r.node("node-a")
	if err := r.s.Reaches("node-a"); err != nil {
		t.Error(err)
	}
	if err := r.s.Reaches("node-z"); stream.CodeOf(err) != stream.AgentOffline || !strings.Contains(stream.TextOf(err), "node-z") {
		t.Error(err)
	}
}

func TestNoDialDuringTheDrain(t *testing.T) {
	r := newRig(t, Config{})
	r.s.flows.close()
	if _, err := r.s.Dial(t.Context(), bob); stream.CodeOf(err) != stream.GoingAway {
		t.Errorf("dial: %v", err)
	}
	if got := r.verdict(1); got != "going-away" {
		t.Errorf("logged as %s", got)
	}
}

// The pod's end of a link is a Conn like any other.
func TestPodEnd(t *testing.T) {
	quick := tunnel.Config{Linger: 100 * time.Millisecond}
	r := newRig(t, Config{Tunnel: quick})
	node := r.connect(Identity{Role: RoleNode, Name: "node-a"}, quick)
	node.peer.attends.Store(registered)
	tun := newTunnelTo(node.near, &controlv1.Register{Node: "node-a", Instance: "i"})
	r.s.nodes.add(tun)
	r.report(tun, "shop/web=uid-1")
	forwardtest.TestConn(t, func() (a, b forward.Conn, stop func(), err error) {
		l, st := r.linked(node)
		l.taken.Store(true)
		return &podEnd{Conn: l.conn, link: l}, tunnel.NewConn(st), func() { r.s.flows.remove(l.flow); r.s.flows.end() }, nil
	})
}
