package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

// joined is one stream through an agent: the client's end, the pod's, and all
// between.
type joined struct {
	*running
	relay  *relay
	link   *link
	client forward.Conn
	pod    *net.TCPConn
}

func joinStream(t testing.TB, to way, cfg Config) *joined {
	t.Helper()
	l := reachtest.Listen(t)
	cfg.Pods = to(t, local(reachtest.DialTo(l.Addr().String()), pod1))
	j := &joined{relay: startRelay(t, &relay{})}
	j.running = start(t, cfg, j.relay)
	j.link = j.relay.tunnel(t, 1)
	j.client = j.link.mustOpen(t, pod1.UID)
	j.pod = reachtest.Accept(t, l)
	return j
}

// TestHalfClose ends the directions one after the other, in both orders: each end
// arrives, and the other direction goes on.
func TestHalfClose(t *testing.T) { bothWays(t, testHalfClose) }

func testHalfClose(t *testing.T, to way) {
	type duplex interface {
		io.ReadWriter
		CloseWrite() error
	}
	for _, clientFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("client first %v", clientFirst), func(t *testing.T) {
			j := joinStream(t, to, Config{})
			ends := []duplex{j.client, j.pod}
			if !clientFirst {
				ends[0], ends[1] = ends[1], ends[0]
			}
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
			for i, from := range ends {
				var sending sync.WaitGroup
				sending.Go(func() {
					if _, err := from.Write(want); err != nil {
						t.Error(err)
					}
					if err := from.CloseWrite(); err != nil {
						t.Error(err)
					}
				})
				got, err := io.ReadAll(ends[1-i])
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("direction %d: %d bytes, %v", i, len(got), err)
				}
				sending.Wait()
			}
			line := j.log.wait(t, "stream", 1)[0]
			for key, want := range map[string]any{
				"level": "INFO", "user": "alice", "relay": j.relay.addr, "node": "node-1",
				"pod": "shop/web-0", "uid": "uid-1", "port": 80.0,
				"bytes_up": float64(len(want)), "bytes_down": float64(len(want)), "code": "ok", "reason": "",
			} {
				if line[key] != want {
					t.Errorf("log line: %s is %v, want %v", key, line[key], want)
				}
			}
			if id, _ := line["id"].(string); len(id) != 32 {
				t.Errorf("log line: id %q", id)
			}
			if _, err := time.ParseDuration(fmt.Sprint(line["duration"])); err != nil {
				t.Errorf("log line: %v", err)
			}
		})
	}
}

// TestEnds breaks a stream at each of its places. Whoever is left sees an abort,
// never an end, and the log says whose it was.
func TestEnds(t *testing.T) { bothWays(t, testEnds) }

func testEnds(t *testing.T, to way) {
	reset := func(c *net.TCPConn) { c.SetLinger(0); c.Close() }
	for _, tt := range []struct {
		name   string
		break_ func(t *testing.T, j *joined)
		client *stream.Error // what the client is told; nil: it is the one who left
		pod    bool          // the pod is left
		code   string
		reason string // part of it
	}{
		{
			"the pod resets", func(_ *testing.T, j *joined) { reset(j.pod) },
			&stream.Error{Code: stream.PodReset, Text: "the pod reset the connection"}, false, "pod-reset", "connection reset by peer",
		},
		{
			"the pod finishes and then resets", func(t *testing.T, j *joined) {
				j.pod.CloseWrite()
				if n, err := j.client.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("client reads %d, %v", n, err)
				}
				reset(j.pod)
				if err := j.client.(forward.AbortWaiter).WaitAbort(); !errors.Is(err, forward.ErrReset) {
					t.Errorf("client waits: %v", err)
				}
			},
			nil, false, "pod-reset", "reset",
		},
		{
			"the client resets with a code", func(_ *testing.T, j *joined) {
				j.client.Reset(&stream.Error{Code: stream.Timeout, Text: "had enough"})
			},
			nil, true, "timeout", "client: connection reset: had enough",
		},
		{
			"the client gives up", func(_ *testing.T, j *joined) { j.client.Close() },
			nil, true, "canceled", "client: ",
		},
		{
			"the client finishes and then resets", func(t *testing.T, j *joined) {
				j.client.CloseWrite()
				if n, err := j.pod.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("pod reads %d, %v", n, err)
				}
				j.client.Reset(nil)
				eventually(t, "the pod is told", func() bool {
					_, err := j.pod.Write([]byte("x"))
					return err != nil
				})
			},
			nil, false, "canceled", "client broke off",
		},
		{
			"the tunnel is lost", func(_ *testing.T, j *joined) { j.link.stop(); j.link.sess.Close() },
			nil, true, "tunnel-lost", "tunnel",
		},
		{
			"the client finishes and the tunnel is lost", func(t *testing.T, j *joined) {
				j.client.CloseWrite()
				if n, err := j.pod.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("pod reads %d, %v", n, err)
				}
				j.link.stop()
				j.link.sess.Close()
				eventually(t, "the pod is told", func() bool {
					_, err := j.pod.Write([]byte("x"))
					return err != nil
				})
			},
			nil, false, "tunnel-lost", "tunnel",
		},
		{
			"the registration ends", func(_ *testing.T, j *joined) { j.link.leave <- nil },
			&stream.Error{Code: stream.Unreachable, Text: "the agent lost its tunnel"}, true, "tunnel-lost", "registration ended by the test",
		},
		{
			"the drain is over", func(_ *testing.T, j *joined) { j.stop() },
			&stream.Error{Code: stream.GoingAway, Text: "agent is shutting down"}, true, "going-away", "shutting down",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := joinStream(t, to, Config{DrainTimeout: time.Millisecond})
			tt.break_(t, j)
			if tt.client != nil {
				_, err := io.ReadAll(j.client)
				var got *stream.Error
				if !errors.As(err, &got) || *got != *tt.client {
					t.Errorf("client: %v, want %v", err, tt.client)
				}
			}
			if tt.pod {
				if n, err := io.Copy(io.Discard, j.pod); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("pod: %d, %v; want %v", n, err, syscall.ECONNRESET)
				}
			}
			line := j.log.wait(t, "stream", 1)[0]
			if reason, _ := line["reason"].(string); line["code"] != tt.code || !strings.Contains(reason, tt.reason) {
				t.Errorf("log line: code %v, reason %v; want %s, %s", line["code"], line["reason"], tt.code, tt.reason)
			}
			var metrics strings.Builder
			j.WriteMetrics(&metrics)
			if want := fmt.Sprintf("culvert_agent_streams_total{code=%q} 1", tt.code); !strings.Contains(metrics.String(), want) {
				t.Errorf("metrics lack %s:\n%s", want, &metrics)
			}
		})
	}
}

// TestRefusals lets each step to a pod fail. The client is told a code and words
// that name nothing of the node; the log has the cause.
func TestRefusals(t *testing.T) { bothWays(t, testRefusals) }

func testRefusals(t *testing.T, to way) {
	refusing := func(err error) *reach.Local {
		return local(reachtest.DialFunc(func(context.Context, sandbox.Pod, uint16) (forward.Socket, error) { return nil, err }), pod1)
	}
	lookup := func(err error) *reach.Local {
		pods := reachtest.NewPods()
		pods.LookupErr = err
		return localOf(pods, nil)
	}
	secret := errors.New("open /run/secret: permission denied")
	noPort80 := local(nil, pod1)
	noPort80.Policy = reach.Policy{DenyPorts: []reach.PortRange{{From: 80, To: 80}}}
	hostPod := sandbox.Pod{Namespace: "shop", Name: "host", UID: "uid-1", HostNetwork: true}
	for _, tt := range []struct {
		name string
		pods *reach.Local
		code stream.Code
		text string
		log  string
	}{
		{"no such pod", local(nil), stream.WrongNode, "the pod is not on this node any more", "look up"},
		{"lookups busy", lookup(sandbox.ErrBusy), stream.Overloaded, "the node is asked for too many pods that it does not know", "too many"},
		{
			"runtime away", lookup(fmt.Errorf("%w: dial /run/secret", sandbox.ErrUnavailable)), stream.Unreachable,
			"the node cannot find the pod: its container runtime does not answer", "/run/secret",
		},
		{"lookup fails", lookup(secret), stream.Internal, "", "/run/secret"},
		{"host network", local(nil, hostPod), stream.Policy, "pods with host networking may not be reached on this node", "host"},
		{"port denied", noPort80, stream.Policy, "port 80 may not be reached on this node", "port"},
		{"not listening", refusing(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), stream.NotListening, "nothing listens on localhost port 80 in the pod", "refused"},
		{"namespace gone", refusing(fmt.Errorf("open /run/secret: %w", netns.ErrGone)), stream.NamespaceGone, "the pod's network is gone", "/run/secret"},
		{"own namespace", refusing(netns.ErrHost), stream.Policy, "the pod shares the network of the agent itself", "process itself"},
		{"dials busy", refusing(netns.ErrBusy), stream.Overloaded, "the node dials as many pods as it may at once", "too many"},
		{"dial too slow", refusing(context.DeadlineExceeded), stream.Timeout, "port 80 in the pod did not accept in time", "deadline"},
		{"no route", refusing(syscall.ENETUNREACH), stream.Unreachable, "the pod's localhost cannot be reached", "unreachable"},
		{"dial fails", refusing(secret), stream.Internal, "", "/run/secret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := startRelay(t, &relay{})
			a := start(t, Config{Pods: to(t, tt.pods)}, r)
			_, err := r.tunnel(t, 1).open(t, stream.Open{UID: "uid-1", Port: 80})
			var got *stream.Error
			if !errors.As(err, &got) || got.Code != tt.code || got.Text != tt.text {
				t.Errorf("client: %#v (%v), want %s, %q", got, err, tt.code, tt.text)
			}
			line := a.log.wait(t, "stream", 1)[0]
			if reason, _ := line["reason"].(string); line["code"] != tt.code.String() || !strings.Contains(reason, tt.log) {
				t.Errorf("log line: %v", line)
			}
		})
	}
}

// TestPodConn runs the suite of connections over what the agent joins.
func TestPodConn(t *testing.T) {
	t.Run("tcp", func(t *testing.T) {
		forwardtest.TestConn(t, podConnPair)
		forwardtest.TestErrReset(t, podConnPair)
	})
	t.Run("without extras", func(t *testing.T) {
		forwardtest.TestConn(t, func() (a, b forward.Conn, stop func(), err error) {
			a, b = forwardtest.Pipe()
			return wrapPod(struct{ forward.Conn }{a}), wrapPod(struct{ forward.Conn }{b}), nil, nil
		})
	})
}

func podConnPair() (a, b forward.Conn, stop func(), err error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, nil, err
	}
	defer l.Close()
	near, err := reachtest.DialTo(l.Addr().String())(context.Background(), pod1, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	far, err := l.AcceptTCP()
	if err != nil {
		return nil, nil, nil, err
	}
	return wrapPod(forward.TCP(near)), wrapPod(forward.TCP(far)), nil, nil
}

// TestManyStreams leaves nothing behind.
func TestManyStreams(t *testing.T) { bothWays(t, testManyStreams) }

func testManyStreams(t *testing.T, to way) {
	const n = 500
	l := reachtest.Listen(t)
	var pods sync.WaitGroup
	pods.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			pods.Go(func() { defer c.Close(); io.Copy(c, c) })
		}
	})
	defer pods.Wait()
	defer l.Close()
	r := startRelay(t, &relay{})
	a := start(t, Config{Pods: to(t, local(reachtest.DialTo(l.Addr().String()), pod1))}, r)
	k := r.tunnel(t, 1)
	var open, all sync.WaitGroup
	open.Add(n)
	for i := range n {
		all.Go(func() {
			c, err := k.open(t, stream.Open{UID: pod1.UID, Port: 80})
			open.Done()
			if err != nil {
				t.Error(err)
				return
			}
			open.Wait() // now all are open at once
			if i%2 == 0 {
				c.Reset(nil)
				return
			}
			c.Write([]byte("hello"))
			c.CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			c.Close()
		})
	}
	all.Wait()
	a.log.wait(t, "stream", n)
	eventually(t, "no stream runs", func() bool { return a.running.Load() == 0 && k.sess.NumStreams() == 1 })
	if lent := a.joiner.Lent(); lent != 0 {
		t.Errorf("%d buffers are lent", lent)
	}
}
