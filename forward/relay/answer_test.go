package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// What a client is told when the agent does not say yes, and what the agent
// sees of it. The client has sent data with its Open.
func TestEveryAnswerReachesTheClient(t *testing.T) {
	for name, tc := range map[string]struct {
		act   func(t *testing.T, node *link, agent *tunnel.Stream)
		code  stream.Code
		agent string
	}{
		"refusal": {
			act: func(t *testing.T, _ *link, a *tunnel.Stream) {
				answer(t, a, stream.NotListening, "nobody is in")
				_ = a.Close()
			},
			code: stream.NotListening,
		},
		"agent is going away": { // the client must not think that the relay is
			act: func(t *testing.T, _ *link, a *tunnel.Stream) {
				answer(t, a, stream.GoingAway, "agent is shutting down")
				_ = a.Close()
			},
			code: stream.AgentOffline,
		},
		"refusal with a code of the future": {
			act:  func(t *testing.T, _ *link, a *tunnel.Stream) { answer(t, a, 999, "nobody is in") },
			code: 999, agent: "cut",
		},
		"noise": {
			act:  func(t *testing.T, _ *link, a *tunnel.Stream) { write(t, a, []byte{0, 0, 0, 0, 0, 0}) },
			code: stream.Malformed, agent: "reset(malformed)",
		},
		"yes in a version of the future": {
			act:  func(t *testing.T, _ *link, a *tunnel.Stream) { write(t, a, []byte{9, 0, 0, 0, 0, 0}) },
			code: stream.Unsupported, agent: "reset(unsupported)",
		},
		"end": {
			act:  func(_ *testing.T, _ *link, a *tunnel.Stream) { _ = a.CloseWrite() },
			code: stream.Canceled, agent: "reset(canceled)",
		},
		"half an answer": {
			act:  func(t *testing.T, _ *link, a *tunnel.Stream) { write(t, a, []byte{1, 0, 0}); _ = a.CloseWrite() },
			code: stream.Canceled, agent: "reset(canceled)",
		},
		"reset": {
			act:  func(_ *testing.T, _ *link, a *tunnel.Stream) { _ = a.Reset() },
			code: stream.Canceled, agent: "rst",
		},
		"lost": {
			act:  func(_ *testing.T, n *link, _ *tunnel.Stream) { _ = n.raw.Close() },
			code: stream.Unreachable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			client := r.client()
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			c := client.ask("shop", "web")
			write(t, c, data("early"))
			a, open := node.accept()
			if open.UID != "uid-1" || open.User != "alice" {
				t.Errorf("agent is asked for %+v", open)
			}
			if got := next(a); got != "early" {
				t.Errorf("agent reads %q", got)
			}
			tc.act(t, node, a)
			reply, err := stream.ReadReply(c)
			if err != nil || reply.Code != tc.code {
				t.Fatalf("client reads %+v, %v; want code %s", reply, err, tc.code)
			}
			if got := rest(t, c); got != "cut" {
				t.Errorf("after the refusal the client sees %q", got)
			}
			if tc.agent != "" {
				if got := rest(t, a); got != tc.agent {
					t.Errorf("agent sees %q, want %q", got, tc.agent)
				}
			}
			if got := r.verdict(1); got != tc.code.String() {
				t.Errorf("logged as %s", got)
			}
			_ = c.Close()
			_ = a.Close()
			r.quiet(client, node)
		})
	}
}

// A client that leaves before the answer frees the agent's stream.
func TestClientLeavesBeforeTheAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		act   func(t *testing.T, l *link, c *tunnel.Stream)
		agent string
	}{
		"reset": {func(t *testing.T, _ *link, c *tunnel.Stream) {
			write(t, c, stream.AppendReset(nil, stream.Canceled, ""))
		}, "reset(canceled)"},
		"mux reset": {func(_ *testing.T, _ *link, c *tunnel.Stream) { _ = c.Reset() }, "reset(canceled)"},
		"lost":      {func(_ *testing.T, l *link, _ *tunnel.Stream) { _ = l.raw.Close() }, "reset(canceled)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			client := r.client()
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			c := client.ask("shop", "web")
			a, _ := node.accept()
			tc.act(t, client, c)
			if got := rest(t, a); got != tc.agent {
				t.Errorf("agent sees %q, want %q", got, tc.agent)
			}
			if got := r.verdict(1); got != "canceled" {
				t.Errorf("logged as %s", got)
			}
			_ = c.Close()
			_ = a.Close()
			r.quiet(client, node)
		})
	}
}

func TestAgentNeverAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{OpenTimeout: 15 * time.Second})
		client := r.client()
		node, tun := r.node("node-a")
		r.report(tun, "shop/web=uid-1")
		began := time.Now()
		c := client.ask("shop", "web")
		a, _ := node.accept()
		reply, err := stream.ReadReply(c)
		if err != nil || reply.Code != stream.Timeout {
			t.Fatalf("client reads %+v, %v", reply, err)
		}
		if took := time.Since(began); took < 15*time.Second || took > 16*time.Second {
			t.Errorf("it took %s", took)
		}
		if got := rest(t, a); got != "reset(timeout)" {
			t.Errorf("agent sees %q", got)
		}
		_ = c.Close()
		_ = a.Close()
		r.quiet(client, node)
		r.hangUp(client, node)
	})
}

// No timer ends a stream that is half closed, idle, or both; and no deadline
// of its opening is left on it.
func TestHalfClosedStreamsHaveAllTheTimeInTheWorld(t *testing.T) {
	for _, who := range []string{"client", "agent"} {
		t.Run(who, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, Config{})
				client := r.client()
				node, tun := r.node("node-a")
				r.report(tun, "shop/web=uid-1")
				p := r.forward(client, node)
				first, second := p.client, p.agent
				if who == "agent" {
					first, second = second, first
				}
				time.Sleep(time.Hour)
				write(t, first, data("request"), fin())
				_ = first.CloseWrite()
				time.Sleep(time.Hour)
				if got := rest(t, second); got != "request fin" {
					t.Fatalf("the other side sees %q", got)
				}
				time.Sleep(time.Hour)
				write(t, second, data("late answer"), fin())
				if got := next(first) + " " + next(first); got != "late answer fin" {
					t.Errorf("the answer is %q", got)
				}
				if got := r.verdict(1); got != "ok" {
					t.Errorf("logged as %s", got)
				}
				_ = first.Close()
				_ = second.Close()
				r.quiet(client, node)
				r.hangUp(client, node)
			})
		})
	}
}

// An end that takes nothing does not hold up what is left of a stream that was
// cut.
func TestStalledEndIsNotWaitedForLong(t *testing.T) {
	for _, who := range []string{"client", "agent"} {
		t.Run(who, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, Config{})
				client := r.client()
				node, tun := r.node("node-a")
				r.report(tun, "shop/web=uid-1")
				p := r.forward(client, node)
				from, stalled := p.client, p.agent
				if who == "agent" {
					from, stalled = stalled, from
				}
				// Nobody reads: fill every window on the way, then cut.
				full := data(string(make([]byte, 60000)))
				_ = from.SetWriteDeadline(time.Now().Add(10 * time.Second))
				for {
					if _, err := from.Write(full); err != nil {
						break
					}
				}
				began := time.Now()
				_ = from.Reset()
				if got := r.verdict(1); got != "canceled" {
					t.Errorf("logged as %s", got)
				}
				if took := time.Since(began); took > partingTime+time.Second {
					t.Errorf("the stream ended %s after it was cut", took)
				}
				<-stalled.Gone()
				_ = stalled.Close()
				r.quiet(client, node)
				r.hangUp(client, node)
			})
		})
	}
}

// hangUp ends a bubble: it waits for all that a cleanup would end too late.
func (r *rig) hangUp(links ...*link) {
	for _, l := range links {
		_ = l.far.Close()
	}
	r.end(errShutdown)
	r.work.Wait()
	synctest.Wait()
}
