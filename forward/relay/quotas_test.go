package relay

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/policy"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// refusedFor returns the limit that is the reason for err.
func refusedFor(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	if stream.CodeOf(err) != stream.Overloaded {
		t.Fatal(err)
	}
	_, name, _ := strings.Cut(stream.TextOf(err), "(limit ")
	return strings.TrimSuffix(name, ")")
}

func TestQuotasOfStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas(&Limits{Streams: 5, UserStreams: 3, NodeStreams: 2, Opens: -1, UserOpens: -1, NodeOpens: -1})
		for i, want := range []string{"", "", "", "user-streams"} {
			if got := refusedFor(t, q.begin("ann")); got != want {
				t.Errorf("ann's stream %d: %q", i, got)
			}
		}
		for i, want := range []string{"", "", "streams"} {
			if got := refusedFor(t, q.begin("bob")); got != want {
				t.Errorf("bob's stream %d: %q", i, got)
			}
		}
		for i, want := range []string{"", "", "node-streams"} {
			if got := refusedFor(t, q.reach("n1", "")); got != want {
				t.Errorf("stream %d of n1: %q", i, got)
			}
		}
		// One that turns out to be elsewhere moves, one that stays is counted once.
		if err := q.reach("n1", "n1"); err != nil {
			t.Error(err)
		}
		if err := q.reach("n2", "n1"); err != nil {
			t.Error(err)
		}
		if got := refusedFor(t, q.reach("n1", "")); got != "" {
			t.Errorf("the place of a stream that moved: %q", got)
		}
		q.end("ann", "n1")
		q.end("ann", "n1")
		q.end("ann", "n2")
		q.end("bob", "")
		q.end("bob", "")
		for name, ts := range map[string]*tallies{"users": &q.users, "nodes": &q.nodes} {
			for who, one := range ts.of {
				if !one.idle() {
					t.Errorf("%s: something is left of %s: %+v", name, who, one)
				}
			}
		}
		if q.all.streams != 0 {
			t.Errorf("%d streams are left", q.all.streams)
		}
	})
}

func TestQuotasOfOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas(&Limits{Opens: 10, UserOpens: 4, NodeOpens: 2})
		take := func(user string, n int) (taken int, last string) {
			for range n {
				err := q.begin(user)
				if last = refusedFor(t, err); err == nil {
					taken++
					q.end(user, "")
				}
			}
			return taken, last
		}
		if n, why := take("ann", 50); n != 8 || why != "user-opens" {
			t.Errorf("%d at once, then %q", n, why)
		}
		time.Sleep(time.Second)
		if n, why := take("ann", 50); n != 4 || why != "user-opens" {
			t.Errorf("%d in a second, then %q", n, why)
		}
		// Who is refused himself takes nothing of what all share.
		if n, _ := take("bob", 8); n != 8 {
			t.Errorf("bob has %d beside ann", n)
		}
		if n, _ := take("cid", 8); n != 8 {
			t.Errorf("cid has %d beside both", n)
		}
		if n, why := take("dan", 1); n != 0 || why != "opens" {
			t.Errorf("dan has %d when all is taken, then %q", n, why)
		}
		for i := range 5 {
			if got, want := refusedFor(t, q.reach("n", "")) != "", i >= 4; got != want {
				t.Errorf("open %d to a node: refused %v", i, got)
			}
		}
	})
}

// Names come and go; what they leave behind does not grow.
func TestTalliesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas(&Limits{})
		for i := range 20 * fewTallies {
			user := fmt.Sprint("user", i)
			if err := q.begin(user); err != nil {
				t.Fatal(err)
			}
			if i != 7 {
				q.end(user, "")
			}
			time.Sleep(time.Second)
		}
		if n := len(q.users.of); n > 2*fewTallies {
			t.Errorf("%d tallies", n)
		}
		if q.users.get("user7").streams != 1 {
			t.Error("a stream was forgotten")
		}
	})
}

func TestQuotasOfSessionsAndRequests(t *testing.T) {
	q := newQuotas(&Limits{UserSessions: 2, NodeSessions: 1, UserRequests: 1})
	ann, node, joiner := Identity{Role: RoleUser, Name: "ann"}, Identity{Role: RoleNode, Name: "ann"}, Identity{Role: RoleJoiner, Name: "joiner"}
	for i, tc := range []struct {
		who  Identity
		want string
	}{{ann, ""}, {ann, ""}, {ann, "user-sessions"}, {node, ""}, {node, "node-sessions"}, {joiner, ""}, {joiner, ""}, {joiner, ""}} {
		if got := refusedFor(t, q.enter(tc.who)); got != tc.want {
			t.Errorf("%d: %q", i, got)
		}
	}
	q.leave(ann)
	q.leave(joiner)
	if err := q.enter(ann); err != nil {
		t.Error(err)
	}
	if a, b, c := q.request("x"), q.request("x"), q.request("y"); a != nil || refusedFor(t, b) != "user-requests" || c != nil {
		t.Errorf("%v, %v, %v", a, b, c)
	}
	q.done("x")
	q.done("y")
	if len(q.busy) != 0 {
		t.Errorf("%v", q.busy)
	}
}

func TestLimitsHaveNames(t *testing.T) {
	var l Limits
	for i, name := range LimitNames() {
		if err := l.Set(name, i+1); err != nil || l.bounds()[i] != i+1 {
			t.Errorf("%s: %v, %d", name, err, l.bounds()[i])
		}
	}
	if err := l.Set("streems", 1); err == nil || !strings.Contains(err.Error(), "user-streams") {
		t.Errorf("%v", err)
	}
	if got := exceeded(limitStreams, 7, "ann").Error(); got != "the relay carries as many streams as it may (7): try again later (limit streams)" {
		t.Error(got)
	}
	for i := range limitsInAll {
		if text := exceeded(i, 7, "ann").Error(); strings.Contains(text, "%!") || !strings.Contains(text, "7") {
			t.Error(text)
		}
	}
}

// docs/operations.md has every limit with its default.
func TestLimitsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range theLimits() {
		if row := fmt.Sprintf("\n| `%s` | %d | ", one.name, one.usual); !strings.Contains(string(page), row) {
			t.Errorf("docs/operations.md has no row %q", row)
		}
		var l Limits
		if b := l.bounds(); !slices.Contains(b[:], one.usual) {
			t.Errorf("%s: %d is not what 0 means", one.name, one.usual)
		}
	}
}

// A user over his limits is told which, at either door, the log stays short, and
// nobody else suffers.
func TestLimitsAtBothDoors(t *testing.T) {
	r := newRig(t, Config{Locate: located{}, Limits: Limits{UserStreams: 2, NodeStreams: 3}})
	node, _ := r.node("node-a")
	alice := r.client()
	one, two := r.forward(alice, node), r.forward(alice, node)
	for range 50 {
		st := alice.ask("shop", "web")
		reply, err := stream.ReadReply(st)
		_ = st.Close()
		if err != nil || reply.Code != stream.Overloaded || !strings.Contains(reply.Text, "user alice has as many streams open as one may (2)") {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
	ann := Call{Who: Identity{Role: RoleUser, Name: "alice"}, Target: Target{"shop", "web", 80}, Door: "kubectl-test"}
	if _, err := r.s.Dial(within(t), ann); refusedFor(t, err) != "user-streams" {
		t.Errorf("the other door: %v", err)
	}
	bob := r.connect(Identity{Role: RoleUser, Name: "bob"}, tunnel.Config{})
	three := r.forward(bob, node)
	st := bob.ask("shop", "web")
	reply, err := stream.ReadReply(st)
	_ = st.Close()
	if err != nil || !strings.HasSuffix(reply.Text, "(limit node-streams)") {
		t.Errorf("%+v, %v", reply, err)
	}
	if n := len(r.log.all(t, "stream")); n != 0 {
		t.Errorf("%d lines of streams that were too many", n)
	}
	if n := len(r.log.all(t, "over a limit")); n == 0 || n > 25 {
		t.Errorf("%d lines about limits", n)
	}
	var b bytes.Buffer
	r.s.WriteMetrics(&b)
	for _, line := range []string{
		`culvert_relay_limit_refusals_total{limit="user-streams"} 51`, `culvert_relay_limit_refusals_total{limit="node-streams"} 1`,
		`culvert_relay_limit{limit="user-streams"} 2`, `culvert_relay_limit_refusals_total{limit="opens"} 0`,
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	for _, p := range []pair{one, two, three} {
		_, _ = p.client.Close(), p.agent.Close()
	}
	r.quiet(alice, bob)
	_ = r.forward(alice, node)
}

// What does not come to pass is not counted for ever.
func TestRefusedStreamsAreCountedOut(t *testing.T) {
	p := rules(t, "rules: [{action: deny}]")
	r := newRig(t, Config{Locate: located{}, Policy: func() *policy.Policy { return p }, Limits: Limits{UserStreams: 1}})
	client := r.client()
	for range 3 {
		st := client.ask("shop", "web")
		if reply, err := stream.ReadReply(st); err != nil || reply.Code != stream.Policy {
			t.Fatalf("%+v, %v", reply, err)
		}
		_ = st.Close()
		r.quiet(client)
	}
	end, err := r.s.BeginSession(context.Background(), Identity{Role: RoleUser, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	end()
	r.s.quotas.mu.Lock()
	defer r.s.quotas.mu.Unlock()
	if n := r.s.quotas.all.streams; n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

// Sessions of one user, and tunnels of one node, leave room for others.
func TestSessionsOfOneUserAndOneNode(t *testing.T) {
	h := newHouse(t, Config{Limits: Limits{UserSessions: 2, NodeSessions: 1}})
	var first *tunnel.Session
	for i := range 3 {
		sess, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client"))
		if want := i == 2; (refusedFor(t, err) == "user-sessions") != want {
			t.Errorf("session %d: %v", i, err)
		}
		if i == 0 {
			first = sess
		}
	}
	if _, err := h.come(stream.ALPNClient, nil, h.person("bob")); err != nil {
		t.Errorf("another user: %v", err)
	}
	for node, want := range map[string]string{"node-a": "node-sessions", "node-b": "node-sessions"} {
		cert := h.person(node, "culvert:nodes")
		for i := range 2 {
			_, err := h.come(stream.ALPNAgent, nil, cert)
			if got := refusedFor(t, err); (got == want) != (i == 1) {
				t.Errorf("%s, tunnel %d: %q", node, i, got)
			}
		}
	}
	_ = first.Close()
	eventually(t, "the place of a session that ended is free", func() bool {
		sess, err := h.come(stream.ALPNClient, hello(stream.CredentialToken, "client"))
		if err == nil {
			_ = sess.Close()
		}
		return err == nil
	})
}
