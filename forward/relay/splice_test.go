package relay

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// The ends a direction can come to, and what the other side must see of each.
// Every case runs from the client and from the agent.
func TestEveryEndArrivesAsWhatItIs(t *testing.T) {
	type both [2]string // client acts, agent acts
	reset := stream.AppendReset(nil, stream.PodReset, "it said so")
	for name, tc := range map[string]struct {
		act  func(t *testing.T, me *link, p, other side)
		see  both // on the other side, after "abc"
		self both // on the acting side
		code both
	}{
		"finish, and the other side too": {
			act: func(t *testing.T, _ *link, me, other side) {
				write(t, me, fin())
				_ = me.CloseWrite()
				if f := next(other.Stream); f != "fin" {
					t.Errorf("the other side sees %s", f)
				}
				write(t, other, data("answer"), fin())
				_ = other.CloseWrite()
			},
			see: both{"", ""}, self: both{"answer fin", "answer fin"}, code: both{"ok", "ok"},
		},
		"finish without the end of the mux stream": {
			act: func(t *testing.T, _ *link, me, other side) {
				write(t, me, fin())
				if f := next(other.Stream); f != "fin" {
					t.Errorf("the other side sees %s", f)
				}
				write(t, other, fin())
			},
			see: both{"", ""}, self: both{"fin", "fin"}, code: both{"ok", "ok"},
		},
		"reset": {
			act:  func(t *testing.T, _ *link, me, _ side) { write(t, me, reset); _ = me.CloseWrite() },
			see:  both{"reset(pod-reset)", "reset(pod-reset)"},
			self: both{"cut", "cut"}, code: both{"pod-reset", "pod-reset"},
		},
		"reset after finish": {
			act: func(t *testing.T, _ *link, me, other side) {
				write(t, me, fin())
				if f := next(other.Stream); f != "fin" {
					t.Errorf("the other side sees %s", f)
				}
				write(t, me, reset)
			},
			see: both{"rst", "rst"}, self: both{"cut", "cut"}, code: both{"pod-reset", "pod-reset"},
		},
		"end of the mux stream without a mark": {
			act:  func(_ *testing.T, _ *link, me, _ side) { _ = me.CloseWrite() },
			see:  both{"reset(canceled)", "reset(canceled)"},
			self: both{"reset(canceled)", "reset(canceled)"}, code: both{"canceled", "canceled"},
		},
		"end of the mux stream inside a frame": {
			act:  func(t *testing.T, _ *link, me, _ side) { write(t, me, data("defg")[:6]); _ = me.CloseWrite() },
			see:  both{"rst", "rst"},
			self: both{"reset(canceled)", "reset(canceled)"}, code: both{"canceled", "canceled"},
		},
		"reset of the mux stream": {
			act:  func(_ *testing.T, _ *link, me, _ side) { _ = me.Reset() },
			see:  both{"reset(canceled)", "reset(canceled)"},
			self: both{"rst", "rst"}, code: both{"canceled", "canceled"},
		},
		"reset of the mux stream after finish": {
			act: func(t *testing.T, _ *link, me, other side) {
				write(t, me, fin())
				if f := next(other.Stream); f != "fin" {
					t.Errorf("the other side sees %s", f)
				}
				_ = me.Reset()
			},
			see: both{"rst", "rst"}, self: both{"rst", "rst"}, code: both{"canceled", "canceled"},
		},
		"lost": {
			act:  func(_ *testing.T, me *link, _, _ side) { _ = me.raw.Close() },
			see:  both{"reset(canceled)", "reset(unreachable)"},
			self: both{"lost", "lost"}, code: both{"canceled", "unreachable"},
		},
		"lost after finish": {
			act: func(t *testing.T, l *link, me, other side) {
				write(t, me, fin())
				_ = me.CloseWrite()
				if f := next(other.Stream); f != "fin" {
					t.Errorf("the other side sees %s", f)
				}
				_ = l.raw.Close()
			},
			see: both{"rst", "rst"}, self: both{"lost", "lost"}, code: both{"canceled", "unreachable"},
		},
		"lost inside a frame": {
			act: func(t *testing.T, l *link, me, other side) {
				write(t, me, data("defg")[:6])
				var b [6]byte
				if n, err := other.Read(b[:]); n == 0 {
					t.Error(err)
				}
				_ = l.raw.Close()
			},
			see: both{"rst", "rst"}, self: both{"lost", "lost"}, code: both{"canceled", "unreachable"},
		},
		"noise": {
			act:  func(t *testing.T, _ *link, me, _ side) { write(t, me, []byte("GET / HTTP/1.1\r\n\r\n")) },
			see:  both{"reset(malformed)", "reset(malformed)"},
			self: both{"reset(malformed)", "reset(malformed)"}, code: both{"malformed", "malformed"},
		},
		"a frame from the future": {
			act:  func(t *testing.T, _ *link, me, _ side) { write(t, me, []byte{7, 0, 0, 0}) },
			see:  both{"reset(unsupported)", "reset(unsupported)"},
			self: both{"reset(unsupported)", "reset(unsupported)"}, code: both{"unsupported", "unsupported"},
		},
		"a frame too long": {
			act:  func(t *testing.T, _ *link, me, _ side) { write(t, me, []byte{1, 0, 0xff, 0xff}) },
			see:  both{"reset(malformed)", "reset(malformed)"},
			self: both{"reset(malformed)", "reset(malformed)"}, code: both{"malformed", "malformed"},
		},
		"data after finish": {
			act: func(t *testing.T, _ *link, me, other side) {
				write(t, me, fin())
				if f := next(other.Stream); f != "fin" {
					t.Errorf("the other side sees %s", f)
				}
				write(t, me, data("more"))
			},
			see: both{"rst", "rst"}, self: both{"reset(malformed)", "reset(malformed)"}, code: both{"malformed", "malformed"},
		},
	} {
		for i, who := range []string{"client", "agent"} {
			t.Run(name+"/"+who, func(t *testing.T) {
				r := newRig(t, Config{})
				client := r.client()
				node, tun := r.node("node-a")
				r.report(tun, "shop/web=uid-1")
				other := r.forward(client, node)
				p := r.forward(client, node)

				links, sides := []*link{client, node}, []side{{p.client}, {p.agent}}
				me, far := sides[i], sides[1-i]
				write(t, me, data("abc"))
				if f := next(far.Stream); f != "abc" {
					t.Fatalf("the other side sees %s", f)
				}
				tc.act(t, links[i], me, far)
				if tc.see[i] != "" {
					got := rest(t, far.Stream)
					if got == "cut" && tc.see[i] == "rst" { // the end of the finished direction was read before
						<-far.Gone()
						got = "rst"
					}
					if got != tc.see[i] {
						t.Errorf("the other side sees %q, want %q", got, tc.see[i])
					}
				}
				if got := rest(t, me.Stream); got != tc.self[i] {
					t.Errorf("the acting side sees %q, want %q", got, tc.self[i])
				}
				if !strings.HasPrefix(name, "lost") {
					if code := r.verdict(1); code != tc.code[i] {
						t.Errorf("logged as %s, want %s", code, tc.code[i])
					}
					sibling(t, other)
				}
				_ = other.client.Close()
				_ = other.agent.Close()
				_ = me.Close()
				_ = far.Close()
				r.quiet(client, node)
			})
		}
	}
}

// Whoever is being told of a reset may hang up meanwhile: that is an echo, and not
// how the stream ended.
func TestTheEchoOfAResetIsNotItsCause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{})
		client := r.connect(Identity{Role: RoleUser, Name: "alice"}, tunnel.Config{Window: 256 << 10})
		node, tun := r.node("node-a")
		r.report(tun, "shop/web=uid-1")
		for n := range 20 {
			p := r.forward(client, node)
			for _, size := range []int{63 << 10, 63 << 10, 63 << 10, 63 << 10, 3 << 10} { // nearly what the client takes without reading
				write(t, p.agent, data(strings.Repeat("x", size)))
			}
			synctest.Wait()
			// In one piece, which the relay reads as one: too much for the client.
			write(t, p.agent, stream.AppendReset(data(strings.Repeat("x", 1<<10)), stream.PodReset, "it said so"))
			synctest.Wait() // the relay tells it, as far as the client takes it
			_ = p.client.Reset()
			if code := r.verdict(n + 1); code != "pod-reset" {
				t.Fatalf("stream %d: logged as %s", n, code)
			}
			_ = p.agent.Close()
		}
		r.quiet(client, node)
	})
}

// sibling holds that a stream beside still works, and finishes it.
func sibling(t *testing.T, p pair) {
	t.Helper()
	write(t, p.client, data("ping"))
	finish(t, p.client)
	if got := next(p.agent) + " " + next(p.agent); got != "ping fin" {
		t.Errorf("a stream beside carries %q", got)
	}
	write(t, p.agent, data("pong"))
	finish(t, p.agent)
	if got := next(p.client) + " " + next(p.client); got != "pong fin" {
		t.Errorf("a stream beside answers %q", got)
	}
	_ = p.client.Close()
	_ = p.agent.Close()
}
