//go:build linux

package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// TestConnConforms runs the suite of connections over sockets that were passed.
func TestConnConforms(t *testing.T) {
	l := reachtest.Listen(t)
	port := reachtest.PortOf(l)
	c := connected(t, start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web()), Dialer: reachtest.DialHome()}}).path)
	mk := func() (forward.Conn, forward.Conn, func(), error) {
		_, near, err := c.Connect(t.Context(), "uid-1", port)
		if err != nil {
			return nil, nil, nil, err
		}
		far, err := l.AcceptTCP()
		if err != nil {
			return nil, nil, nil, err
		}
		return near, forward.TCP(far), nil, nil
	}
	forwardtest.TestConn(t, mk)
	forwardtest.TestErrReset(t, mk)
}

// TestSameAnswers asks a Local and a broker over it the same: pod, code, text and
// what a log is told are the same, but for where the pod's network is.
func TestSameAnswers(t *testing.T) {
	closed := reachtest.Listen(t)
	port := reachtest.PortOf(closed)
	closed.Close()
	failing := func(err error) *reach.Local {
		return &reach.Local{Source: reachtest.NewPods(web()), Dialer: reachtest.DialFunc(func(context.Context, sandbox.Pod, uint16) (forward.Socket, error) { return nil, err })}
	}
	unknown := func(err error) *reach.Local {
		p := reachtest.NewPods(web())
		p.LookupErr = err
		return &reach.Local{Source: p, Dialer: reachtest.DialHome()}
	}
	ruled := func(pod sandbox.Pod, p reach.Policy) *reach.Local {
		return &reach.Local{Source: reachtest.NewPods(pod), Dialer: reachtest.DialHome(), Policy: p}
	}
	host := web()
	host.HostNetwork, host.NetNS = true, ""
	for name, l := range map[string]*reach.Local{
		"no such pod":     {Source: reachtest.NewPods(), Dialer: reachtest.DialHome()},
		"lookups busy":    unknown(fmt.Errorf("look up: %w", sandbox.ErrBusy)),
		"runtime away":    unknown(fmt.Errorf("%w: dial /run/secret", sandbox.ErrUnavailable)),
		"lookup fails":    unknown(errors.New("something else")),
		"a long reason":   unknown(errors.New(strings.Repeat("x", maxText-100))),
		"host network":    ruled(host, reach.Policy{}),
		"port denied":     ruled(web(), reach.Policy{DenyPorts: []reach.PortRange{{From: 1, To: 65535}}}),
		"not allowed":     ruled(web(), reach.Policy{AllowNamespaces: []string{"other"}}),
		"not listening":   {Source: reachtest.NewPods(web()), Dialer: reachtest.DialHome()},
		"namespace gone":  failing(fmt.Errorf("open: %w", netns.ErrGone)),
		"own namespace":   failing(netns.ErrHost),
		"dials busy":      failing(netns.ErrBusy),
		"dial too slow":   failing(context.DeadlineExceeded),
		"no route":        failing(syscall.ENETUNREACH),
		"dial fails":      failing(errors.New("open /run/secret: permission denied")),
		"dial is refused": failing(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}),
	} {
		t.Run(name, func(t *testing.T) {
			c := connected(t, start(t, "", Config{Pods: l}).path)
			for _, port := range []uint16{port, 0} {
				wantPod, _, want := l.Connect(t.Context(), "uid-1", port)
				gotPod, conn, got := c.Connect(t.Context(), "uid-1", port)
				if conn != nil || got == nil || gotPod != told(wantPod) {
					t.Errorf("port %d: %v, %v, %v; want pod %v", port, gotPod, conn, got, wantPod)
				}
				same(t, got, want)
				wantPod, wantDenied, want := l.Find(t.Context(), "uid-1", port)
				gotPod, gotDenied, got := c.Find(t.Context(), "uid-1", port)
				if gotPod != told(wantPod) {
					t.Errorf("find: %v, want %v", gotPod, wantPod)
				}
				same(t, gotDenied, wantDenied)
				same(t, got, want)
			}
			if c.HostNetwork() != l.HostNetwork() {
				t.Error("host network")
			}
		})
	}
}

// same compares what can be seen of two errors.
func same(t *testing.T, got, want error) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) || stream.CodeOf(got) != stream.CodeOf(want) || stream.TextOf(got) != stream.TextOf(want) {
		t.Errorf("%v: %v, %q; want %v: %v, %q", got, stream.CodeOf(got), stream.TextOf(got), want, stream.CodeOf(want), stream.TextOf(want))
	}
}

// TestFollow keeps a client up to date: pods, in pieces if there are many, and
// whether they can be known.
func TestFollow(t *testing.T) {
	source := reachtest.NewPods()
	source.NotReady = errors.New("containerd is away")
	c := connected(t, start(t, "", Config{Pods: &reach.Local{
		Source: source, Dialer: reachtest.DialHome(), Policy: reach.Policy{AllowHostNetwork: true},
	}}).path)
	eventually(t, "the trouble is known", func() bool { return fmt.Sprint(c.Ready()) == "containerd is away" })
	if c.Away() != nil || !c.HostNetwork() || len(c.List()) > 0 {
		t.Errorf("away %v, host network %v, pods %v", c.Away(), c.HostNetwork(), c.List())
	}
	var many []sandbox.Pod
	for i := range 3000 {
		many = append(many, sandbox.Pod{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253), UID: fmt.Sprint("uid-", i), HostNetwork: i%2 == 0})
	}
	for _, now := range [][]sandbox.Pod{{web()}, many, {}, {web()}} {
		source.Edit(func() { source.All, source.NotReady = now, nil })
		want := []sandbox.Pod{}
		for _, p := range now {
			p.Created = p.Created.UTC()
			want = append(want, told(p))
		}
		eventually(t, fmt.Sprintf("%d pods are known", len(now)), func() bool {
			<-c.Changed()
			return c.Ready() == nil && reflect.DeepEqual(c.List(), want)
		})
	}
	source.Edit(func() { source.NotReady = errors.New("away again") })
	eventually(t, "the trouble is known", func() bool { return fmt.Sprint(c.Ready()) == "away again" })
	if len(c.List()) != 1 {
		t.Errorf("pods are forgotten: %v", c.List())
	}
}

// TestBrokerDies goes on with what there is and asks again when it is back.
func TestBrokerDies(t *testing.T) {
	l := reachtest.Listen(t)
	port := reachtest.PortOf(l)
	local := &reach.Local{Source: reachtest.NewPods(web()), Dialer: reachtest.DialHome()}
	first := start(t, "", Config{Pods: local})
	c := connected(t, first.path)
	eventually(t, "the pod is known", func() bool { return len(c.List()) == 1 })
	_, conn, err := c.Connect(t.Context(), "uid-1", port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pod := reachtest.Accept(t, l)
	first.stop()
	eventually(t, "the broker is missed", func() bool { return errors.Is(c.Away(), ErrAway) && errors.Is(c.Ready(), ErrAway) })
	if len(c.List()) != 1 {
		t.Error("the pods are forgotten")
	}
	for range 3 {
		_, _, err = c.Connect(t.Context(), "uid-1", port)
		if stream.CodeOf(err) != stream.Unreachable || !errors.Is(err, ErrAway) || !strings.Contains(stream.TextOf(err), "try again") {
			t.Errorf("without a broker: %v", err)
		}
	}
	if _, err := io.WriteString(conn, "still"); err != nil {
		t.Error(err)
	}
	if b := make([]byte, 5); true {
		if _, err := io.ReadFull(pod, b); err != nil || string(b) != "still" {
			t.Errorf("pod reads %q, %v", b, err)
		}
	}
	start(t, first.path, Config{Pods: local})
	eventually(t, "the broker is back", func() bool { return c.Ready() == nil })
	_, again, err := c.Connect(t.Context(), "uid-1", port)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestStaleConnection asks on a connection whose broker has ended and been replaced
// before anybody noticed.
func TestStaleConnection(t *testing.T) {
	local := &reach.Local{Source: reachtest.NewPods(web()), Dialer: reachtest.DialHome()}
	first := start(t, "", Config{Pods: local})
	c := NewClient(ClientConfig{Socket: first.path}) // follows nobody
	defer c.drop(true)
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			if _, _, err := c.Find(t.Context(), "uid-1", 80); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	first.stop()
	start(t, first.path, Config{Pods: local})
	if _, _, err := c.Find(t.Context(), "uid-1", 80); err != nil {
		t.Error(err)
	}
}

// TestSilentBroker gives up on one that takes connections and says nothing.
func TestSilentBroker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := NewClient(ClientConfig{Socket: path, MaxQuestions: 1})
	c.silence = 10 * time.Millisecond
	follower(t, c)
	eventually(t, "the broker is missed", func() bool { return errors.Is(c.Ready(), errSilent) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := c.Connect(ctx, "uid-1", 80); stream.CodeOf(err) != stream.Unreachable {
		t.Errorf("connect: %v", err)
	}
	// One more than may be asked at once waits for its turn.
	hold, release := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		if _, _, err := c.Connect(hold, "uid-1", 80); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	})
	eventually(t, "the turn is taken", func() bool { return len(c.turns) == 1 })
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := c.Connect(ctx, "uid-1", 80); stream.CodeOf(err) != stream.Overloaded {
		t.Errorf("no turn: %v", err)
	}
	release()
	asking.Wait()
}

// TestGivenUp closes the connection of a question that nobody waits for any more:
// its answer, and the socket with it, must not be taken for that of the next.
func TestGivenUp(t *testing.T) {
	l := reachtest.Listen(t)
	port := reachtest.PortOf(l)
	let := make(chan struct{})
	slow := reachtest.DialFunc(func(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error) {
		if pod.Name == "slow" {
			<-let
		}
		return reachtest.DialHome()(context.WithoutCancel(ctx), pod, port)
	})
	laggard := web()
	laggard.Name, laggard.UID = "slow", "uid-2"
	c := connected(t, start(t, "", Config{Pods: &reach.Local{Source: reachtest.NewPods(web(), laggard), Dialer: slow}}).path)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := c.Connect(ctx, "uid-2", port); err == nil {
		t.Fatal("connected")
	}
	close(let)
	pod, conn, err := c.Connect(t.Context(), "uid-1", port)
	if err != nil || pod.Name != "web-0" {
		t.Fatal(pod, err)
	}
	defer conn.Close()
	// Of the two that the pod sees one ends, and the other is the one that came here.
	got := make(chan string, 2)
	both := []*net.TCPConn{reachtest.Accept(t, l), reachtest.Accept(t, l)}
	var reading sync.WaitGroup
	defer reading.Wait()
	for _, far := range both {
		reading.Go(func() {
			b, _ := io.ReadAll(far)
			got <- string(b)
		})
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Error(err)
	}
	if first := <-got; first != "" {
		t.Errorf("the connection that was asked for ends, after %q", first)
	}
	conn.CloseWrite()
	if second := <-got; second != "hello" {
		t.Errorf("the pod reads %q", second)
	}
}
