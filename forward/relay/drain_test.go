package relay

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// agentOf connects and registers a node with one pod, shop/web.
func (h *house) agentOf(name string) (*link, attendance) {
	h.t.Helper()
	sess, err := h.come(stream.ALPNAgent, nil, h.person(name, identity.OrgNodes))
	if err != nil {
		h.t.Fatal(err)
	}
	l := &link{t: h.t, far: sess}
	call, _, err := l.attend(&controlv1.Register{Node: name, Instance: "i"})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Pods{Pods: report(true, "shop/web=uid-1")}}); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "the pod is known", func() bool { return len(h.s.nodes.listPods("shop")) == 1 })
	return l, call
}

func (h *house) clientOf() *link {
	h.t.Helper()
	sess, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client"))
	if err != nil {
		h.t.Fatal(err)
	}
	return &link{t: h.t, far: sess}
}

func heard(t *testing.T, call grpc.BidiStreamingClient[controlv1.AttendRequest, controlv1.AttendResponse]) {
	t.Helper()
	m, err := call.Recv()
	if err != nil || m.GetGoingAway().GetReason() == "" {
		t.Errorf("agent hears %v, %v", m, err)
	}
}

func through(t *testing.T, client, node *link) pair {
	t.Helper()
	return (&rig{t: t}).forward(client, node)
}

func TestDrainLetsStreamsFinish(t *testing.T) {
	h := newHouse(t, Config{DrainTimeout: time.Hour})
	node, call := h.agentOf("node-a")
	client := h.clientOf()
	p := through(t, client, node)
	if !h.s.Ready() {
		t.Error("not ready")
	}
	h.stop()
	heard(t, call)
	if h.s.Ready() {
		t.Error("still ready")
	}
	c := client.ask("shop", "web")
	if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.GoingAway {
		t.Errorf("reply %+v, %v", reply, err)
	}
	_ = c.Close()
	if _, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client")); err == nil {
		t.Error("a new session during the drain")
	}
	sibling(t, p)
	<-h.done
	if got := h.log.all(t, "stream"); len(got) != 2 || got[1]["code"] != "ok" {
		t.Errorf("logged %v", got)
	}
}

func TestDrainCutsWithACode(t *testing.T) {
	h := newHouse(t, Config{DrainTimeout: 100 * time.Millisecond})
	node, call := h.agentOf("node-a")
	client := h.clientOf()
	open, half := through(t, client, node), through(t, client, node)
	write(t, half.client, fin())
	if got := next(half.agent); got != "fin" {
		t.Error(got)
	}
	write(t, half.agent, data("part of"))
	h.stop()
	heard(t, call)
	for _, st := range []*tunnel.Stream{open.client, open.agent} {
		if got := strings.TrimSuffix(rest(t, st), " lost"); got != "reset(going-away)" {
			t.Errorf("an open stream ends as %q", got)
		}
	}
	if got := strings.TrimSuffix(rest(t, half.client), " lost"); got != "part of reset(going-away)" {
		t.Errorf("a half-closed stream ends as %q", got)
	}
	if got := rest(t, half.agent); got == "fin" || got == "" {
		t.Errorf("the agent of a half-closed stream sees %q", got)
	}
	<-h.done
	for _, l := range h.log.all(t, "stream") {
		if l["code"] != "going-away" {
			t.Errorf("logged %v", l)
		}
	}
}

func TestStreamLineAndMetrics(t *testing.T) {
	h := newHouse(t, Config{})
	node, _ := h.agentOf("node-a")
	client := h.clientOf()
	p := through(t, client, node)
	var b bytes.Buffer
	h.s.WriteMetrics(&b)
	for _, want := range []string{
		`culvert_relay_streams 1`, `culvert_relay_nodes 1`, `culvert_relay_sessions{role="node"} 1`,
		`culvert_relay_sessions{role="user"} 1`, `culvert_relay_handshakes_pending 0`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, &b)
		}
	}
	sibling(t, p) // ping, pong
	eventually(t, "the stream is logged", func() bool { return len(h.log.all(t, "stream")) == 1 })
	line := h.log.all(t, "stream")[0]
	for field, want := range map[string]any{
		"user": identity.UserToken, "node": "node-a", "pod": "shop/web", "uid": "uid-1", "port": 80.0,
		"bytes_up": 4.0, "bytes_down": 4.0, "code": "ok", "reason": "",
	} {
		if line[field] != want {
			t.Errorf("%s is %v, want %v", field, line[field], want)
		}
	}
	for _, field := range []string{"id", "from", "duration"} {
		if s, _ := line[field].(string); s == "" {
			t.Errorf("no %s", field)
		}
	}

	// An agent may send any code, and must not make a series of each.
	for code := stream.Code(100); code < 110; code++ {
		c := client.ask("shop", "web")
		a, _ := node.accept()
		answer(t, a, code, "")
		_, _ = stream.ReadReply(c)
		_ = a.Close()
		_ = c.Close()
	}
	eventually(t, "they are logged", func() bool { return len(h.log.all(t, "stream")) == 11 })
	b.Reset()
	h.s.WriteMetrics(&b)
	for _, want := range []string{
		`culvert_relay_streams_total{code="ok",door="culvert"} 1`, `culvert_relay_streams_total{code="unknown",door="culvert"} 10`,
		`culvert_relay_payload_bytes_total{direction="up"} 4`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, &b)
		}
	}
}

// An agent that finishes its streams and hangs up cuts nothing short, however
// slow the client is.
func TestAgentFinishesAndHangsUp(t *testing.T) {
	h := newHouse(t, Config{})
	node, _ := h.agentOf("node-a")
	client := h.clientOf()
	p := through(t, client, node)
	write(t, p.client, fin())
	if got := next(p.agent); got != "fin" {
		t.Fatal(got)
	}
	const size, part = 600 << 10, 60000
	sent := 0
	for ; sent < size; sent += part {
		write(t, p.agent, data(strings.Repeat("x", part)))
	}
	write(t, p.agent, fin())
	_ = p.agent.Close()
	_ = node.far.Close()
	eventually(t, "the node is gone", func() bool { return h.s.nodes.len() == 0 })
	got := 0
	for {
		f := next(p.client)
		if f == "fin" {
			break
		}
		if len(f) != part {
			t.Fatalf("after %d bytes: %q", got, f)
		}
		got += len(f)
	}
	if got != sent {
		t.Errorf("%d of %d bytes", got, sent)
	}
	_ = p.client.Close()
}
