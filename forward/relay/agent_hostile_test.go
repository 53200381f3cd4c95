package relay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// deafConn stops reading when it is told to, and says what it likes.
type deafConn struct {
	net.Conn
	deaf, gone chan struct{}
	once       sync.Once
}

func (c *deafConn) Read(p []byte) (int, error) {
	select {
	case <-c.deaf:
		<-c.gone
		return 0, net.ErrClosed
	default:
		return c.Conn.Read(p)
	}
}

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// hostile is a node that is let in, has the pod shop/bad, and means no good.
type hostile struct {
	*link
	call attendance
	raw  *deafConn
}

func (h *house) hostile() *hostile {
	h.t.Helper()
	raw := &deafConn{Conn: h.raw(), deaf: make(chan struct{}), gone: make(chan struct{})}
	h.t.Cleanup(func() { _ = raw.Close() })
	carrier, err := tunnel.HandshakeClient(within(h.t), raw, h.dial(stream.ALPNAgent, h.person("node-bad", identity.OrgNodes)))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := stream.WriteHello(carrier, &stream.Hello{Credential: stream.CredentialTLS}); err != nil {
		h.t.Fatal(err)
	}
	if reply, err := stream.ReadReply(carrier); err != nil || reply.Code != stream.OK {
		h.t.Fatalf("%+v, %v", reply, err)
	}
	sess, err := tunnel.NewSession(carrier, true, tunnel.Config{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = sess.Close() })
	b := &hostile{link: &link{t: h.t, far: sess}, raw: raw}
	if b.call, _, err = b.attend(&controlv1.Register{Node: "node-bad", Instance: "bad"}); err != nil {
		h.t.Fatal(err)
	}
	sendPods(b.t.(*testing.T), b.call, report(true, "shop/bad=uid-bad"))
	eventually(h.t, "the bad pod is known", func() bool { return len(h.s.nodes.listPods("shop")) == 2 })
	return b
}

// taking accepts streams until the session ends, and does something with each.
func (b *hostile) taking(do func(*tunnel.Stream)) {
	for {
		st, err := b.far.Accept(context.Background())
		if err != nil {
			return
		}
		if _, err := stream.ReadOpen(st); err == nil {
			do(st)
		}
	}
}

func yes(st *tunnel.Stream) {
	_ = stream.WriteReply(st, &stream.Reply{Version: stream.Version, Code: stream.OK})
}

// An agent that is let in can refuse, stall and falsify streams to its own pods. The
// client's streams to others, on the same session, do not notice; what it takes is
// bounded, and nothing is left when it is gone.
func TestHostileAgentHurtsOnlyItself(t *testing.T) {
	for name, attack := range map[string]func(b *hostile){
		"never reads at all": func(b *hostile) { close(b.raw.deaf) },
		"accepts and never reads": func(b *hostile) {
			b.taking(yes)
		},
		"never answers": func(b *hostile) { b.taking(func(*tunnel.Stream) {}) },
		"resets at once": func(b *hostile) {
			b.taking(func(st *tunnel.Stream) { _ = st.Reset() })
		},
		"says yes and then nonsense": func(b *hostile) {
			b.taking(func(st *tunnel.Stream) {
				yes(st)
				_ = st.SetWriteDeadline(time.Now().Add(patience))
				_, _ = st.Write(bytes.Repeat([]byte{0xff}, 1<<20))
			})
		},
		"sends without end": func(b *hostile) {
			b.taking(func(st *tunnel.Stream) {
				yes(st)
				go func() { // ends with the session
					for block := data(string(make([]byte, 60_000))); ; {
						if _, err := st.Write(block); err != nil {
							return
						}
					}
				}()
			})
		},
		"opens streams to others": func(b *hostile) {
			for i := range 3000 {
				o := &stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: "shop", Pod: "web", Port: 80}
				st, err := connect.Open(within(b.t), b.far, o)
				if err != nil {
					return
				}
				if i%2 == 0 {
					_ = st.Reset()
					continue
				}
				if reply, err := stream.ReadReply(st); err == nil && reply.Code == stream.OK {
					b.t.Error("an agent reached a pod")
				}
				_ = st.Close()
			}
		},
		"floods the control plane": func(b *hostile) {
			for range 500 {
				st, err := connect.Open(within(b.t), b.far, &stream.Open{Kind: stream.KindControl, ID: stream.NewID()})
				if err != nil {
					return
				}
				_, _ = st.Write(bytes.Repeat([]byte("PRI * HTTP/2.0\r\n"), 10))
			}
		},
		"floods reports": func(b *hostile) {
			for i := range 500 {
				var pods []string
				for j := range 300 {
					pods = append(pods, fmt.Sprintf("shop/p%d=uid-%d-%d", j, i, j))
				}
				if b.call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Pods{
					Pods: report(true, append(pods, "shop/bad=uid-bad")...),
				}}) != nil {
					return
				}
			}
		},
		"registers again and again": func(b *hostile) {
			for range 500 {
				if b.call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Register{
					Register: &controlv1.Register{Node: "node-good", Instance: "bad"},
				}}) != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Config{OpenTimeout: 5 * time.Second})
			good, _ := h.agentOf("node-good")
			client := h.clientOf()
			p := through(t, client, good)
			before, first := runtime.NumGoroutine(), heap()
			b := h.hostile()
			var busy sync.WaitGroup
			busy.Go(func() { attack(b) })
			victims := h.bother(&busy)
			for range 200 {
				sibling(t, through(t, client, good))
			}
			if pods := h.s.nodes.listPods("shop"); !slices.ContainsFunc(pods, func(p *controlv1.Pod) bool {
				return p.GetUid() == "uid-1" && p.GetNode() == "node-good"
			}) {
				t.Errorf("the good node has lost its pod: %v", pods)
			}
			if grown := heap() - first; grown > 128<<20 {
				t.Errorf("the relay holds %d bytes more", grown)
			}
			sibling(t, p)
			_ = victims.far.Close()
			_ = b.raw.Close()
			_ = b.far.Close()
			busy.Wait()
			eventually(t, "no stream is left", func() bool { return h.s.flows.len() == 0 })
			eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+2 })
		})
	}
}

// bother has another client use the bad pod all the time, with as many streams and
// bytes as are taken. It ends with its session.
func (h *house) bother(busy *sync.WaitGroup) *link {
	h.t.Helper()
	c := h.clientOf()
	for range 8 {
		busy.Go(func() {
			for c.far.Err() == nil {
				st, err := connect.Open(context.Background(), c.far, &stream.Open{
					Kind: stream.KindForward, ID: stream.NewID(), Namespace: "shop", Pod: "bad", Port: 80,
				})
				if err != nil {
					return
				}
				_ = st.SetWriteDeadline(time.Now().Add(time.Second))
				for block := data(string(make([]byte, 60_000))); err == nil; {
					_, err = st.Write(block)
				}
				_ = st.Reset()
			}
		})
	}
	return c
}
