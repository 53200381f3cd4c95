package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const agentUser = "system:serviceaccount:culvert-agent:culvert-agent"

// good is what a review says of the token of an agent on a node.
func good(node string, change ...func(*authenticationv1.TokenReviewStatus)) authenticationv1.TokenReviewStatus {
	s := authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: []string{"culvert-relay"},
		User: authenticationv1.UserInfo{Username: agentUser, Extra: map[string]authenticationv1.ExtraValue{extraNodeName: {node}}},
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

// knock authenticates as an agent does.
func knock(ctx context.Context, k *Kube, token string) (relay.Identity, error) {
	return k.Agents().Authenticate(ctx, tls.ConnectionState{NegotiatedProtocol: stream.ALPNAgent},
		&stream.Hello{Credential: stream.CredentialToken, Token: token})
}

func counts(t *testing.T, k *Kube, line string) bool {
	t.Helper()
	var b bytes.Buffer
	k.WriteMetrics(&b)
	return strings.Contains(b.String(), line)
}

func TestWhoIsAnAgent(t *testing.T) {
	type status = authenticationv1.TokenReviewStatus
	now := time.Now()
	ours := agentToken(now, now.Add(time.Hour), 1)
	tests := map[string]struct {
		token  string
		says   status
		node   string
		reason string
		asked  int
	}{
		"an agent":            {token: ours, says: good("node1"), node: "node1", asked: 1},
		"not authenticated":   {token: ours, says: status{Error: "invalid bearer token"}, reason: reasonDenied, asked: 1},
		"and an error":        {token: ours, says: good("n", func(s *status) { s.Error = "hm" }), reason: reasonDenied, asked: 1},
		"no audience":         {token: ours, says: good("n", func(s *status) { s.Audiences = nil }), reason: reasonAudience, asked: 1},
		"another audience":    {token: ours, says: good("n", func(s *status) { s.Audiences = []string{"https://kubernetes.default.svc"} }), reason: reasonAudience, asked: 1},
		"another account":     {token: ours, says: good("n", func(s *status) { s.User.Username = "system:serviceaccount:culvert-agent:default" }), reason: reasonAccount, asked: 1},
		"another namespace":   {token: ours, says: good("n", func(s *status) { s.User.Username = "system:serviceaccount:default:culvert-agent" }), reason: reasonAccount, asked: 1},
		"a longer name":       {token: ours, says: good("n", func(s *status) { s.User.Username = agentUser + "x" }), reason: reasonAccount, asked: 1},
		"no node":             {token: ours, says: good("n", func(s *status) { s.User.Extra = nil }), reason: reasonNode, asked: 1},
		"two nodes":           {token: ours, says: good("n", func(s *status) { s.User.Extra[extraNodeName] = []string{"a", "b"} }), reason: reasonNode, asked: 1},
		"no name of a node":   {token: ours, says: good("../n"), reason: reasonNode, asked: 1},
		"garbage":             {token: "garbage", reason: reasonToken},
		"over":                {token: agentToken(now.Add(-time.Hour), now.Add(-time.Second), 1), reason: reasonExpired},
		"says: not for us":    {token: jwt(fmt.Sprintf(`{"aud":"x","sub":%q,"iat":1,"exp":%d}`, agentUser, now.Unix()+99)), reason: reasonAudience},
		"says: somebody else": {token: jwt(fmt.Sprintf(`{"aud":"culvert-relay","sub":"x","iat":1,"exp":%d}`, now.Unix()+99)), reason: reasonAccount},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := newAnswers()
			a.tokens[tt.token] = tt.says
			k := a.ask(t, Config{})
			for range 2 { // the second time from memory
				id, err := knock(t.Context(), k, tt.token)
				if tt.reason == "" {
					if err != nil || id.Role != relay.RoleNode || id.Name != tt.node {
						t.Fatalf("%+v, %v", id, err)
					}
					if text := fmt.Sprintf("%v %+v %#v", id, id, id.Proof); strings.Contains(text, tt.token) {
						t.Errorf("the token is shown: %s", text)
					}
					continue
				}
				if stream.CodeOf(err) != stream.Unauthenticated || stream.TextOf(err) == "" || id.Name != "" {
					t.Errorf("%+v, %v", id, err)
				}
			}
			if got := a.count("tokenreviews"); got != tt.asked {
				t.Errorf("asked %d times, want %d", got, tt.asked)
			}
			if tt.reason != "" && !counts(t, k, fmt.Sprintf(`culvert_relay_agents_refused_total{reason=%q} 2`, tt.reason)) {
				t.Errorf("not counted as %s", tt.reason)
			}
		})
	}
}

func TestAgentsAreNothingElse(t *testing.T) {
	now := time.Now()
	ours := agentToken(now, now.Add(time.Hour), 1)
	a := newAnswers()
	a.tokens[ours] = good("node1")
	k := a.ask(t, Config{})
	for name, who := range map[string]struct {
		alpn string
		kind stream.CredentialKind
	}{
		"client":      {stream.ALPNClient, stream.CredentialToken},
		"certificate": {stream.ALPNAgent, stream.CredentialTLS},
		"join token":  {stream.ALPNAgent, stream.CredentialJoin},
		"nothing":     {"", stream.CredentialToken},
	} {
		_, err := k.Agents().Authenticate(t.Context(), tls.ConnectionState{NegotiatedProtocol: who.alpn}, &stream.Hello{Credential: who.kind, Token: ours})
		if stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	k.agents.user = "" // no account was named
	if _, err := knock(t.Context(), k, ours); stream.CodeOf(err) != stream.Unauthenticated || a.count("tokenreviews") != 0 {
		t.Errorf("without an account: %v", err)
	}
}

// What keeps the relay from asking is not the agent's fault.
func TestReviewThatFails(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		code int
		away bool
		want stream.Code
	}{
		"away":                        {away: true, want: stream.Unreachable},
		"the relay's token is over":   {code: http.StatusUnauthorized, want: stream.Unreachable},
		"the relay lacks the right":   {code: http.StatusForbidden, want: stream.Unreachable},
		"no such thing":               {code: http.StatusNotFound, want: stream.Unreachable},
		"busy":                        {code: http.StatusTooManyRequests, want: stream.Overloaded},
		"broken":                      {code: http.StatusInternalServerError, want: stream.Unreachable},
		"behind a gateway that waits": {code: http.StatusGatewayTimeout, want: stream.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAnswers()
			token := agentToken(now, now.Add(time.Hour), 1)
			a.tokens[token], a.code, a.away = good("node1"), tt.code, tt.away
			k := a.ask(t, Config{})
			if _, err := knock(t.Context(), k, token); stream.CodeOf(err) != tt.want || stream.TextOf(err) == "" {
				t.Errorf("%v", err)
			}
			a.set(func() { a.code, a.away = 0, false })
			if id, err := knock(t.Context(), k, token); err != nil || id.Name != "node1" {
				t.Errorf("it works again: %+v, %v", id, err)
			}
		})
	}
}

func TestReviewsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		a := newAnswers()
		token, short, bad := agentToken(now, now.Add(time.Hour), 1), agentToken(now, now.Add(20*time.Second), 2), agentToken(now, now.Add(time.Hour), 3)
		a.tokens[token], a.tokens[short], a.tokens[bad] = good("node1"), good("node2"), authenticationv1.TokenReviewStatus{}
		k := a.ask(t, Config{})
		step := func(after time.Duration, token string, ok bool, asked int) {
			t.Helper()
			time.Sleep(after)
			_, err := knock(t.Context(), k, token)
			if (err == nil) != ok || a.count("tokenreviews") != asked {
				t.Errorf("%v, asked %d times, want %d", err, a.count("tokenreviews"), asked)
			}
		}
		step(0, token, true, 1)
		step(0, short, true, 2)
		step(0, bad, false, 3)
		step(5*time.Second-1, bad, false, 3)
		step(1, bad, false, 4)
		step(14*time.Second, short, true, 4)
		step(time.Second, short, false, 4) // over, whatever is remembered
		step(30*time.Second, token, true, 4)
		a.set(func() { a.tokens[token] = authenticationv1.TokenReviewStatus{} })
		step(11*time.Second, token, false, 5) // a minute and a second after it was good
	})
}

// A storm of agents is spread: as many as may be asked about get in, the rest
// hear at once that they must come again, and all are in after their time.
func TestStormOfAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes = 5000
		a := newAnswers()
		now := time.Now()
		tokens := make([]string, nodes)
		for i := range tokens {
			tokens[i] = agentToken(now, now.Add(time.Hour), i)
			a.tokens[tokens[i]] = good(fmt.Sprintf("node%d", i))
		}
		k := a.ask(t, Config{})
		var in, again, most atomic.Int64
		var all sync.WaitGroup
		for i, token := range tokens {
			all.Go(func() {
				for {
					began := time.Now()
					_, err := knock(t.Context(), k, token)
					for d := int64(time.Since(began)); ; {
						if old := most.Load(); d <= old || most.CompareAndSwap(old, d) {
							break
						}
					}
					if err == nil {
						in.Add(1)
						return
					}
					if stream.CodeOf(err) != stream.Overloaded {
						t.Errorf("node%d: %v", i, err)
						return
					}
					again.Add(1)
					time.Sleep(5*time.Second + rand.N(30*time.Second))
				}
			})
		}
		all.Wait()
		took := time.Since(now)
		if in.Load() != nodes || a.count("tokenreviews") != nodes {
			t.Errorf("%d are in, asked %d times", in.Load(), a.count("tokenreviews"))
		}
		if time.Duration(most.Load()) > patience {
			t.Errorf("one waited %v", time.Duration(most.Load()))
		}
		// 400 at once, then 200 a second.
		if want := (nodes - 400) / 200 * time.Second; took < want || took > 3*want {
			t.Errorf("all in after %v", took)
		}
		t.Logf("%d nodes in %v, %d came again", nodes, took, again.Load())
	})
}

func TestNodesAreReviewedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		a := newAnswers()
		token := agentToken(now, now.Add(time.Hour), 1)
		a.tokens[token] = good("node1")
		k := a.ask(t, Config{})
		judge := k.Agents().(relay.Revalidator)
		id, err := knock(t.Context(), k, token)
		if err != nil {
			t.Fatal(err)
		}
		check := func(after time.Duration, code stream.Code, atLeast, atMost int) {
			t.Helper()
			for end := time.Now().Add(after); time.Now().Before(end); {
				time.Sleep(min(30*time.Second, time.Until(end)))
				err = judge.Revalidate(t.Context(), id)
				if err != nil {
					break
				}
			}
			if stream.CodeOf(err) != code {
				t.Errorf("%v, want %v", err, code)
			}
			if n := a.count("tokenreviews"); n < atLeast || n > atMost {
				t.Errorf("asked %d times, want %d to %d", n, atLeast, atMost)
			}
		}
		check(7*time.Minute, stream.OK, 1, 1)
		check(4*time.Minute, stream.OK, 2, 2)
		a.set(func() { a.away = true })
		check(20*time.Minute, stream.OK, 10, 30) // asks more often, and lives
		a.set(func() { a.away = false })
		before := a.count("tokenreviews")
		check(2*time.Minute, stream.OK, before+1, before+1)
		a.set(func() { a.tokens[token] = good("node7") })
		check(11*time.Minute, stream.Unauthenticated, before+2, before+2)
		a.set(func() { a.away = true })
		check(30*time.Minute, stream.Unauthenticated, 0, 100)
		if !strings.Contains(err.Error(), "over") || time.Since(now) < time.Hour || time.Since(now) > time.Hour+time.Minute {
			t.Errorf("ended after %v: %v", time.Since(now), err)
		}
	})
}

// One question at a time for a node, and no more of all than there may be.
func TestReviewsAgainAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		a := newAnswers()
		token := agentToken(now, now.Add(time.Hour), 1)
		a.tokens[token] = good("node1")
		k := a.ask(t, Config{AgentRate: 1, AgentBurst: 1})
		judge := k.Agents().(relay.Revalidator)
		id, err := knock(t.Context(), k, token)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Minute + time.Second)
		if !k.agents.standing.Allow() {
			t.Fatal("no turn is left")
		}
		if err := judge.Revalidate(t.Context(), id); err != nil || a.count("tokenreviews") != 1 {
			t.Errorf("asked out of turn: %v", err)
		}
		time.Sleep(2 * time.Minute)
		a.before = func(*http.Request) { time.Sleep(time.Second) }
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := judge.Revalidate(t.Context(), id); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if a.count("tokenreviews") != 2 {
			t.Errorf("asked %d times", a.count("tokenreviews"))
		}
	})
}

func TestRenewToken(t *testing.T) {
	now := time.Now()
	a := newAnswers()
	first, next, other, over := agentToken(now.Add(-time.Hour), now.Add(time.Minute), 1), agentToken(now, now.Add(time.Hour), 2),
		agentToken(now, now.Add(time.Hour), 3), agentToken(now.Add(-time.Hour), now.Add(-time.Minute), 4)
	a.tokens[first], a.tokens[next], a.tokens[other] = good("node1"), good("node1"), good("node2")
	k := a.ask(t, Config{})
	renewer := k.Agents().(relay.TokenRenewer)
	id, err := knock(t.Context(), k, first)
	if err != nil {
		t.Fatal(err)
	}
	got, renewAt, err := renewer.RenewToken(t.Context(), id, next)
	if err != nil || got.Name != "node1" || got.Role != relay.RoleNode || got.Proof.(*nodeProof).token != next {
		t.Errorf("%+v, %v", got, err)
	}
	if in := renewAt.Sub(now); in < 49*time.Minute || in > 52*time.Minute {
		t.Errorf("renew in %v", in)
	}
	for name, tt := range map[string]struct {
		who   relay.Identity
		token string
		want  stream.Code
	}{
		"another node":   {id, other, stream.Unauthenticated},
		"over":           {id, over, stream.Unauthenticated},
		"nothing":        {id, "", stream.Malformed},
		"two lines":      {id, "a\nb", stream.Malformed},
		"too long":       {id, strings.Repeat("x", stream.MaxToken+1), stream.Malformed},
		"garbage":        {id, "x", stream.Unauthenticated},
		"no token":       {relay.Identity{Role: relay.RoleNode, Name: "node1"}, next, stream.Forbidden},
		"not of a node":  {relay.Identity{Role: relay.RoleUser, Name: "node1", Proof: id.Proof}, next, stream.Forbidden},
		"never reviewed": {id, agentToken(now, now.Add(time.Hour), 9), stream.Unauthenticated},
	} {
		if got, at, err := renewer.RenewToken(t.Context(), tt.who, tt.token); stream.CodeOf(err) != tt.want || got.Name != "" || !at.IsZero() {
			t.Errorf("%s: %+v, %v, %v", name, got, at, err)
		}
	}
	judge := k.Agents().(relay.Revalidator)
	for name, who := range map[string]relay.Identity{
		"no token": {Role: relay.RoleNode, Name: "node1"}, "user": {Role: relay.RoleUser, Name: "ann", Proof: id.Proof},
	} {
		if err := judge.Revalidate(t.Context(), who); stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("%s stays: %v", name, err)
		}
	}
}

// Whoever floods the door with forged tokens keeps no agent from being looked at
// again, and none from renewing its token.
func TestFloodDoesNotReachWhoIsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		first, next := agentToken(now, now.Add(time.Hour), 1), agentToken(now, now.Add(time.Hour), 2)
		a := newAnswers()
		a.tokens[first], a.tokens[next] = good("node1"), good("node1")
		k := a.ask(t, Config{ReviewEvery: time.Minute})
		who, err := knock(t.Context(), k, first)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		for i := range 100 {
			flood.Go(func() {
				for n := 1; ctx.Err() == nil; n++ {
					_, _ = knock(ctx, k, agentToken(now, now.Add(time.Hour), i*1000000+n+2))
					time.Sleep(time.Second)
				}
			})
		}
		time.Sleep(time.Minute + time.Second) // the next look is due
		if _, _, err := k.agents.RenewToken(t.Context(), who, next); err != nil {
			t.Errorf("renewal: %v", err)
		}
		a.set(func() { a.tokens[first] = authenticationv1.TokenReviewStatus{} }) // its pod is gone
		if err := k.agents.Revalidate(t.Context(), who); stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("looked at again: %v", err)
		}
		cancel()
		flood.Wait()
	})
}
