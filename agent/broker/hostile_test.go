//go:build linux

package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// raw is a connection to a broker that obeys no rule.
func raw(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix(network, nil, &net.UnixAddr{Net: network, Name: path})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// say sends a message and returns the answer, with what came along.
func say(t testing.TB, c *net.UnixConn, msg []byte) (answer, int, error) {
	t.Helper()
	if _, err := c.Write(msg); err != nil {
		return answer{}, -1, err
	}
	return hearAnswer(c)
}

func hearAnswer(c *net.UnixConn) (answer, int, error) {
	b, fd, err := receive(c, make([]byte, maxMessage))
	if err != nil {
		return answer{}, -1, err
	}
	a, err := readAnswer(b)
	return a, fd, err
}

func connectTo(uid string, port uint16) []byte {
	return appendQuestion(nil, question{kind: askConnect, port: port, wait: patience, uid: uid})
}

// ended wants that the broker hangs up.
func ended(t testing.TB, c *net.UnixConn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); isTimeout(err) {
		t.Errorf("the broker does not hang up: %d bytes, %v", n, err)
	}
}

// never is a dialer that must not be asked.
func never(t testing.TB) reach.Dialer {
	return reachtest.DialFunc(func(_ context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error) {
		t.Errorf("dialled %s/%s port %d", pod.Namespace, pod.Name, port)
		return nil, errors.New("must not be")
	})
}

// TestOtherUsersMayNotAsk closes whoever is not the agent, before it is heard.
func TestOtherUsersMayNotAsk(t *testing.T) {
	r := start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: never(t)}, UID: os.Geteuid() + 1})
	c := raw(t, r.path)
	if a, fd, err := say(t, c, connectTo("uid-1", 80)); err == nil {
		t.Errorf("answered: %+v, %d", a, fd)
	}
}

// TestPolicyIsTheBrokers asks as an agent that was broken into would: for all that
// the policy does not allow. No question gets as far as a dial.
func TestPolicyIsTheBrokers(t *testing.T) {
	pod := func(ns, uid string, host bool) sandbox.Pod {
		return sandbox.Pod{Namespace: ns, Name: "p", UID: uid, HostNetwork: host}
	}
	r := start(t, "", Config{Pods: &reach.Local{
		Source: reachtest.NewPods(pod("kube-system", "system", false), pod("shop", "web", false), pod("shop", "host", true), pod("other", "other", false)),
		Dialer: never(t),
		Policy: reach.Policy{
			AllowNamespaces: []string{"shop", "kube-system"}, DenyNamespaces: []string{"kube-system"},
			AllowPorts: []reach.PortRange{{From: 80, To: 90}}, DenyPorts: []reach.PortRange{{From: 85, To: 85}},
		},
	}})
	c := raw(t, r.path)
	for _, tt := range []struct {
		uid  string
		port uint16
		code stream.Code
	}{
		{"system", 80, stream.Policy}, {"other", 80, stream.Policy}, {"host", 80, stream.Policy},
		{"web", 79, stream.Policy}, {"web", 85, stream.Policy}, {"web", 65535, stream.Policy},
		{"", 80, stream.WrongNode}, {"nobody", 80, stream.WrongNode}, {"web\x00", 80, stream.WrongNode},
		{"../../proc/1/ns/net", 80, stream.WrongNode}, {"127.0.0.1", 80, stream.WrongNode},
	} {
		a, fd, err := say(t, c, connectTo(tt.uid, tt.port))
		if err != nil || a.code != tt.code || fd >= 0 {
			t.Errorf("%q port %d: code %v, descriptor %d, %v; want %v", tt.uid, tt.port, a.code, fd, err, tt.code)
		}
	}
}

// TestGarbage sends what is no question. It is refused or not answered at all, the
// broker hangs up, and others are served.
func TestGarbage(t *testing.T) {
	r := start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: never(t)}})
	good := connectTo("uid-1", 80)
	spoilt := func(at int, with byte) []byte {
		b := bytes.Clone(good)
		b[at] = with
		return b
	}
	tail := func(n int) []byte { return append(bytes.Clone(good), bytes.Repeat([]byte("x"), n)...) }
	for name, tt := range map[string]struct {
		msg  []byte
		code stream.Code // 0: no answer is wanted
	}{
		"nothing":          {[]byte{}, 0},
		"one byte":         {[]byte{version}, stream.Malformed},
		"a cut question":   {good[:questionHead-1], stream.Malformed},
		"next version":     {spoilt(0, version+1), stream.Unsupported},
		"version 0":        {spoilt(0, 0), stream.Unsupported},
		"no kind":          {spoilt(1, 0), stream.Malformed},
		"an answer":        {spoilt(1, byte(isAnswer)), stream.Malformed},
		"port 0":           {connectTo("uid-1", 0), stream.Malformed},
		"a long UID":       {tail(maxUID), stream.Malformed},
		"a very long one":  {tail(60 << 10), stream.Malformed},
		"follow what":      {spoilt(1, byte(askFollow)), stream.Malformed},
		"a line of HTTP":   {[]byte("GET / HTTP/1.1\r\n\r\n"), stream.Unsupported},
		"a TLS handshake":  {[]byte("\x16\x03\x01\x02\x00\x01\x00"), stream.Unsupported},
		"all bytes are FF": {bytes.Repeat([]byte{0xff}, 64), stream.Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			c := raw(t, r.path)
			a, fd, err := say(t, c, tt.msg)
			if tt.code == 0 {
				if err == nil {
					t.Errorf("answered with %v", a)
				}
				return
			}
			if err != nil || a.code != tt.code || fd >= 0 {
				t.Errorf("code %v, descriptor %d, %v; want %v", a.code, fd, err, tt.code)
			}
			ended(t, c)
		})
	}
	if a, _, err := say(t, raw(t, r.path), appendQuestion(nil, question{kind: askFind, wait: patience, uid: "uid-1"})); err != nil || a.code != stream.OK {
		t.Errorf("afterwards: %+v, %v", a, err)
	}
}

// TestDescriptorsFromBelow sends descriptors to the broker, which must not keep
// them: its own would run out.
func TestDescriptorsFromBelow(t *testing.T) {
	r := start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: never(t)}})
	c := raw(t, r.path)
	mine := make([]int, 100) // standard input, a hundred times
	find := appendQuestion(nil, question{kind: askFind, wait: patience, uid: "uid-1"})
	before := 0
	for i := range 50 {
		if i == 1 {
			before = descriptors(t) // the broker has taken the connection by now
		}
		if _, _, err := c.WriteMsgUnix(find, syscall.UnixRights(mine...), nil); err != nil {
			t.Fatal(err)
		}
		if a, _, err := hearAnswer(c); err != nil || a.code != stream.OK {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	if now := descriptors(t); now > before {
		t.Errorf("%d descriptors more", now-before)
	}
}

// TestFloodOfConnections lets as many in as may be, and serves those.
func TestFloodOfConnections(t *testing.T) {
	const most = 8
	r := start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: never(t)}, MaxConns: most})
	find := appendQuestion(nil, question{kind: askFind, wait: patience, uid: "uid-1"})
	var in []*net.UnixConn
	for range most {
		c := raw(t, r.path)
		if _, _, err := say(t, c, find); err != nil {
			t.Fatal(err)
		}
		in = append(in, c)
	}
	for range 100 {
		if _, _, err := say(t, raw(t, r.path), find); err == nil {
			t.Fatal("one too many is served")
		}
	}
	for _, c := range in {
		if a, _, err := say(t, c, find); err != nil || a.code != stream.OK {
			t.Errorf("%+v, %v", a, err)
		}
	}
	in[0].Close()
	eventually(t, "there is room again", func() bool {
		_, _, err := say(t, raw(t, r.path), find)
		return err == nil
	})
}

// TestFollowersAreFew refuses one too many, since each costs a list at every change.
func TestFollowersAreFew(t *testing.T) {
	r := start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: never(t)}})
	follow := appendQuestion(nil, question{kind: askFollow})
	for range maxFollowers {
		c := raw(t, r.path)
		if _, err := c.Write(follow); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, maxMessage)); err != nil {
			t.Fatal(err)
		}
	}
	c := raw(t, r.path)
	if a, _, err := say(t, c, follow); err != nil || a.code != stream.Overloaded {
		t.Errorf("%+v, %v", a, err)
	}
	ended(t, c)
}

// TestFloodOfDials hangs as many dials as there may be connections, and no more. One
// ends with its client, with the next question of one that does not wait, or in time.
func TestFloodOfDials(t *testing.T) {
	const most = 4
	var under, peak atomic.Int64
	hanging := reachtest.DialFunc(func(ctx context.Context, _ sandbox.Pod, _ uint16) (forward.Socket, error) {
		now := under.Add(1)
		for old := peak.Load(); old < now && !peak.CompareAndSwap(old, now); old = peak.Load() {
		}
		defer under.Add(-1)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	local := &reach.Local{Source: reachtest.NewPods(web()), Dialer: hanging}
	r := start(t, "", Config{Pods: local, MaxConns: most, OpenTimeout: time.Hour})
	flood := func(questions int) (all []*net.UnixConn) {
		for range 10 * most {
			c := raw(t, r.path)
			for range questions {
				_, _ = c.Write(connectTo("uid-1", 80)) // those that are too many are closed
			}
			all = append(all, c)
		}
		eventually(t, "all that may hang do", func() bool { return peak.Load() == most })
		return all
	}
	for _, c := range flood(1) {
		c.Close()
	}
	eventually(t, "nobody waits, and nothing is dialled", func() bool { return under.Load() == 0 && r.count() == 0 })
	for _, c := range flood(3) {
		ended(t, c)
	}
	eventually(t, "who does not wait is hung up on", func() bool { return under.Load() == 0 && r.count() == 0 })
	if p := peak.Load(); p > most {
		t.Errorf("%d dials at once, %d connections may be", p, most)
	}
	hasty := raw(t, start(t, "", Config{Pods: local, OpenTimeout: 30 * time.Millisecond}).path)
	for range 2 {
		if a, fd, err := say(t, hasty, connectTo("uid-1", 80)); err != nil || a.code != stream.Timeout || fd >= 0 {
			t.Errorf("in time: %v, %d, %v", a.code, fd, err)
		}
	}
}

// TestNeverReads asks for sockets and takes none. What is queued is bounded, and the
// broker keeps none of them itself once it has hung up.
func TestNeverReads(t *testing.T) {
	l := reachtest.Listen(t)
	port := reachtest.PortOf(l)
	var accepting sync.WaitGroup
	var there atomic.Int64
	accepting.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			there.Add(1)
			accepting.Go(func() {
				defer there.Add(-1)
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	defer accepting.Wait()
	defer l.Close()
	r := start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: reachtest.DialHome()}})
	r.writeTimeout = 100 * time.Millisecond
	before := descriptors(t)
	c := raw(t, r.path)
	asked := 0
	for ; asked < 10_000; asked++ {
		if _, err := c.Write(connectTo("uid-1", port)); err != nil {
			break
		}
	}
	if asked == 10_000 {
		t.Error("the broker never tires")
	}
	eventually(t, "the broker hangs up", func() bool { return r.count() == 0 })
	if n := there.Load(); n > 200 {
		t.Errorf("%d sockets wait for a client that reads nothing", n)
	}
	c.Close()
	eventually(t, "all sockets are closed", func() bool { return there.Load() == 0 && descriptors(t) <= before })
}

// TestStalledFollower is hung up on, whatever the pods do.
func TestStalledFollower(t *testing.T) {
	source := reachtest.NewPods(web())
	r := start(t, "", Config{Pods: &reach.Local{Source: source, Dialer: never(t)}})
	r.writeTimeout = 50 * time.Millisecond
	c := raw(t, r.path)
	if _, err := c.Write(appendQuestion(nil, question{kind: askFollow})); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is let in", func() bool { return r.count() == 1 })
	eventually(t, "it is hung up on", func() bool {
		source.Edit(func() {})
		return r.count() == 0
	})
}

// TestNoDescriptors lets a client hold so many sockets that this process, which the
// broker shares with it here, has no descriptor left. Both come back to life.
func TestNoDescriptors(t *testing.T) {
	l := reachtest.Listen(t)
	port := reachtest.PortOf(l)
	defer l.Close()
	r := start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: reachtest.DialHome()}})
	c := connected(t, r.path)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(descriptors(t) + 40), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	var held []forward.Conn
	var err error
	for len(held) < 100 && err == nil {
		var conn forward.Conn
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, conn, err = c.Connect(ctx, "uid-1", port); err == nil {
			held = append(held, conn)
		}
		cancel()
	}
	if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); e != nil {
		t.Fatal(e)
	}
	if err == nil || stream.CodeOf(err) == stream.OK {
		t.Errorf("no error after %d sockets", len(held))
	}
	for _, conn := range held {
		_ = conn.Reset(nil)
	}
	eventually(t, "a socket is handed out", func() bool {
		_, conn, err := c.Connect(t.Context(), "uid-1", port)
		if err == nil {
			_ = conn.Reset(nil)
		}
		return err == nil
	})
}

// FuzzQuestion reads anything. What it takes, it would write in the same way.
func FuzzQuestion(f *testing.F) {
	f.Add(connectTo("uid-1", 80))
	f.Add(appendQuestion(nil, question{kind: askFollow}))
	f.Add([]byte(strings.Repeat("\x01", questionHead+maxUID)))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readQuestion(b)
		if err != nil {
			return
		}
		if q.kind == askConnect && q.port == 0 || len(q.uid) > maxUID {
			t.Errorf("taken: %+v", q)
		}
		if again := appendQuestion(nil, q); !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is %x", b, q, again)
		}
	})
}

// FuzzHear is what a client hears of a broker that has gone mad.
func FuzzHear(f *testing.F) {
	f.Add(appendState(nil, state{true, "trouble"}))
	piece, _ := appendPiece(nil, true, []sandbox.Pod{web(), {UID: "x", HostNetwork: true}})
	f.Add(piece)
	f.Add(appendAnswer(nil, answer{stream.Policy, "text", "cause", web()}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, fresh := NewClient(ClientConfig{}), list{}
		if err := c.hear(b, &fresh); err == nil && max(len(c.pods), len(fresh.pods)) > len(b)/podHead {
			t.Errorf("%d pods of %d bytes", len(fresh.pods), len(b))
		}
		a, err := readAnswer(b)
		if err != nil {
			return
		}
		// Only the date has more than one spelling.
		if again, err := readAnswer(appendAnswer(nil, a)); err != nil || again != a {
			t.Errorf("%+v becomes %+v, %v", a, again, err)
		}
	})
}
