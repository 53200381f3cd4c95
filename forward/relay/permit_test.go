package relay

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/culvert-k8s/culvert/forward/relay/policy"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func rules(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text), policy.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// located finds one pod on node-a, with labels.
type located struct{ about *policy.Pod }

func (l located) Locate(context.Context, Identity, Target) (Place, error) {
	return Place{Node: "node-a", UID: "uid-1", About: l.about}, nil
}

// groups authorizes everybody and knows better than the caller which groups he has.
type groups []string

func (groups) Authorize(context.Context, Identity, Target) error { return nil }

func (g groups) Known(_ context.Context, who Identity) (Identity, error) {
	who.Groups = g
	return who, nil
}

const ruled = `
rules:
- {name: labelled, labels: {tier: data}, ports: [80], action: deny, reason: ask dba}
- {name: grouped, groups: [interns], action: deny}
- {name: exactly, users: ["bob\u2192x"], action: deny}
- {name: trial, users: [trial], action: deny, dryRun: true}
`

// The policy is asked for every stream, whichever door it comes through, and a
// refusal reaches no agent.
func TestPolicyIsAskedAtBothDoors(t *testing.T) {
	data := policy.AboutPod(map[string]string{"tier": "data"}, nil)
	for name, tc := range map[string]struct {
		who     Identity
		about   *policy.Pod
		now     groups // what the Authorizer knows
		none    bool   // no policy
		refused string // in the text
		log     string
	}{
		"label":         {about: data, refused: "(labelled): ask dba", log: "deny: labelled"},
		"no label":      {},
		"group":         {who: Identity{Groups: []string{"interns"}}, refused: "(grouped)", log: "deny: grouped"},
		"group since":   {now: groups{"interns"}, refused: "(grouped)", log: "deny: grouped"},
		"group no more": {who: Identity{Groups: []string{"interns"}}, now: groups{}},
		"exact name":    {who: Identity{Name: "bob?x", Exact: "bob→x"}, refused: "(exactly)", log: "deny: exactly"},
		"dry run":       {who: Identity{Name: "trial"}, log: "would-deny: trial"},
		"annotation": {
			about: policy.AboutPod(nil, map[string]string{policy.Annotation: "81"}), none: true,
			refused: "lets only ports 81 be reached", log: "deny: the pod",
		},
		"broken annotation": {
			about: policy.AboutPod(nil, map[string]string{policy.Annotation: "http"}), none: true,
			refused: "cannot be read, so no port may be reached", log: "deny: the pod",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Locate: located{tc.about}}
			if !tc.none {
				p := rules(t, ruled)
				cfg.Policy = func() *policy.Policy { return p }
			}
			if tc.now != nil {
				cfg.Authorize = tc.now
			}
			r := newRig(t, cfg)
			r.control()
			node, _ := r.node("node-a")
			who := tc.who
			who.Role = RoleUser
			if who.Name == "" {
				who.Name = "alice"
			}
			client := r.connect(who, r.s.cfg.Tunnel)
			if tc.refused == "" {
				_ = r.forward(client, node)
				_ = client.far.Close()
			} else {
				reply, err := stream.ReadReply(client.ask("shop", "web"))
				if err != nil || reply.Code != stream.Policy || !strings.Contains(reply.Text, tc.refused) {
					t.Errorf("%+v, %v", reply, err)
				}
				_, err = r.s.Dial(within(t), Call{Who: who, Target: Target{"shop", "web", 80}, Door: "kubectl-test"})
				if stream.CodeOf(err) != stream.Policy || !strings.Contains(stream.TextOf(err), tc.refused) {
					t.Errorf("the other door: %v", err)
				}
				if err := r.s.Permits(within(t), who, Target{"shop", "web", 80}, Place{About: tc.about}); stream.CodeOf(err) != stream.Policy {
					t.Errorf("let in: %v", err)
				}
				if node.far.NumStreams() != 0 {
					t.Error("the agent was asked")
				}
			}
			eventually(t, "the line", func() bool { return len(r.log.all(t, "stream")) > 0 })
			for _, line := range r.log.all(t, "stream") {
				if line["policy"] != tc.log {
					t.Errorf("logged %q, want %q", line["policy"], tc.log)
				}
			}
			var b bytes.Buffer
			r.s.WriteMetrics(&b)
			verdict, _, _ := strings.Cut(tc.log, ":")
			if verdict == "" {
				verdict = policy.Allow
			}
			if !strings.Contains(b.String(), `culvert_relay_policy_decisions_total{decision="`+verdict+`"}`) {
				t.Errorf("not counted as %s", verdict)
			}
		})
	}
}

// A new policy is asked for the next stream, those that run go on.
func TestPolicyChangesUnderway(t *testing.T) {
	var now atomic.Pointer[policy.Policy]
	r := newRig(t, Config{Locate: located{}, Policy: now.Load})
	r.control()
	node, _ := r.node("node-a")
	client := r.client()
	runs := r.forward(client, node)
	now.Store(rules(t, "rules: [{action: deny}]"))
	if reply, err := stream.ReadReply(client.ask("shop", "web")); err != nil || reply.Code != stream.Policy {
		t.Errorf("%+v, %v", reply, err)
	}
	write(t, runs.client, []byte{0, 0, 0, 1, 'x'})
	got := make([]byte, 5)
	if _, err := runs.agent.Read(got); err != nil {
		t.Errorf("a stream that ran was cut: %v", err)
	}
	v := controlv1.NewViewClient(client.calls())
	answer, err := v.Check(within(t), &controlv1.CheckRequest{Namespace: "shop", Pod: "web"})
	if err != nil {
		t.Fatal(err)
	}
	steps := answer.GetSteps()
	if last := steps[len(steps)-1]; last.GetName() != stepRules || last.GetCode() != uint32(stream.Policy) || !strings.Contains(last.GetDetail(), "reach any port") {
		t.Errorf("check: %v", steps)
	}
}
