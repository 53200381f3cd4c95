//go:build linux

package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kube"
	"github.com/culvert-k8s/culvert/proto/stream"
	"github.com/culvert-k8s/culvert/test/cluster"
)

// web is the pod that may be reached.
func web() relay.Target { return relay.Target{Namespace: "dev", Pod: "web", Port: 8080} }

// TestKube asks one cluster everything; what takes something away comes last.
func TestKube(t *testing.T) {
	cluster.Require(t)
	f := newFixture(t)
	t.Run("agents", func(t *testing.T) { agents(t, f) })
	t.Run("callers", func(t *testing.T) { callers(t, f) })
	t.Run("access", func(t *testing.T) { access(t, f) })
	t.Run("places", func(t *testing.T) { places(t, f) })
	t.Run("impersonation", func(t *testing.T) { impersonation(t, f) })
	t.Run("front", func(t *testing.T) { front(t, f) })
	t.Run("rebirth", func(t *testing.T) { rebirth(t, f) })
	t.Run("revocation", func(t *testing.T) { revocation(t, f) })
	t.Run("agent is gone", func(t *testing.T) { agentGone(t, f) })
	t.Run("API server is away", func(t *testing.T) { away(t, f) })
}

// agents: the node is the one the API server made the token for.
func agents(t *testing.T, f *fixture) {
	k := f.kube(t)
	first := f.projected(t, "culvert-agent", "agent-1", "culvert-agent", "culvert-relay")
	for token, node := range map[string]string{
		first: "node1", f.projected(t, "culvert-agent", "agent-2", "culvert-agent", "culvert-relay"): "node2",
		f.projected(t, "culvert-agent", "agent-2", "culvert-agent", "culvert-relay", "other"): "node2",
	} {
		who, err := agent(t.Context(), k, token)
		if err != nil || who.Name != node || who.Role != relay.RoleNode {
			t.Errorf("%+v, %v, want %s", who, err, node)
		}
	}
	forged := first[:len(first)-8] + "AAAAAAAA"
	for name, token := range map[string]string{
		"audience": f.projected(t, "culvert-agent", "agent-1", "culvert-agent"),
		"account":  f.projected(t, "culvert-agent", "impostor", "default", "culvert-relay"),
		"node":     f.account("culvert-agent", "culvert-agent", "culvert-relay"),
		"denied":   forged,
		"token":    "garbage",
	} {
		who, err := agent(t.Context(), k, token)
		if stream.CodeOf(err) != stream.Unauthenticated || who.Name != "" {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
		t.Logf("%s: %v", name, err)
		var b strings.Builder
		k.WriteMetrics(&b)
		if !strings.Contains(b.String(), fmt.Sprintf(`culvert_relay_agents_refused_total{reason=%q} 1`, name)) {
			t.Errorf("not counted as %s", name)
		}
	}

	// The next token of the same node, and not one of another.
	who, err := agent(t.Context(), k, first)
	if err != nil {
		t.Fatal(err)
	}
	renewer := k.Agents().(relay.TokenRenewer)
	next, at, err := renewer.RenewToken(t.Context(), who, f.projected(t, "culvert-agent", "agent-1", "culvert-agent", "culvert-relay"))
	if in := time.Until(at); err != nil || next.Name != "node1" || in < 45*time.Minute || in > 55*time.Minute {
		t.Errorf("%+v, in %v, %v", next, in, err)
	}
	if _, _, err := renewer.RenewToken(t.Context(), who, f.projected(t, "culvert-agent", "agent-2", "culvert-agent", "culvert-relay")); stream.CodeOf(err) != stream.Unauthenticated {
		t.Errorf("the token of another node: %v", err)
	}
}

// callers are who the API server says.
func callers(t *testing.T, f *fixture) {
	k := f.kube(t)
	who := mustClient(t, k, f.account("dev", "dev"))
	if who.Name != "system:serviceaccount:dev:dev" || !strings.Contains(strings.Join(who.Groups, ","), "system:authenticated") {
		t.Errorf("%+v", who)
	}
	for name, token := range map[string]string{
		"garbage": "garbage", "for another audience": f.account("dev", "dev", "culvert-relay"),
		"of an agent": f.projected(t, "culvert-agent", "agent-1", "culvert-agent", "culvert-relay"),
	} {
		if who, err := client(t.Context(), k, token); stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
}

// access: what is denied is denied in kube-apiserver's own words.
func access(t *testing.T, f *fixture) {
	k := f.kube(t)
	dev, reader, blind := f.account("dev", "dev"), f.account("dev", "reader"), f.account("dev", "blind")
	if err := k.Authorize(t.Context(), mustClient(t, k, dev), web()); err != nil {
		t.Error(err)
	}
	for name, tt := range map[string]struct {
		token  string
		target relay.Target
	}{
		"another namespace": {dev, relay.Target{Namespace: "culvert-agent", Pod: "agent-1", Port: 1}},
		"get is not create": {reader, web()},
		"no rights at all":  {f.account("dev", "default"), web()},
	} {
		err := k.Authorize(t.Context(), mustClient(t, k, tt.token), tt.target)
		if want := f.stock(t, tt.token, tt.target); stream.CodeOf(err) != stream.Forbidden || stream.TextOf(err) != want {
			t.Errorf("%s:\n%v\n%s", name, err, want)
		}
	}
	// Who may forward and not read the pod gets as far as with stock kubectl.
	who := mustClient(t, k, blind)
	if err := k.Authorize(t.Context(), who, web()); err != nil {
		t.Error(err)
	}
	if _, err := k.Locate(t.Context(), who, web()); stream.CodeOf(err) != stream.Forbidden || !strings.Contains(stream.TextOf(err), `cannot get resource "pods"`) {
		t.Errorf("%v", err)
	}
	overseer := mustClient(t, k, f.overseer(t))
	for what, may := range map[relay.Oversight]bool{relay.SeeNodes: true, relay.SeeStreams: true, relay.StopStreams: false} {
		if ok, err := k.Oversees(t.Context(), who, what); ok || err != nil {
			t.Errorf("a developer oversees %d: %v, %v", what, ok, err)
		}
		if ok, err := k.Oversees(t.Context(), overseer, what); ok != may || err != nil {
			t.Errorf("an overseer of %d: %v, %v", what, ok, err)
		}
	}
}

// overseer returns a token of somebody who may list nodes and streams.
func (f *fixture) overseer(t *testing.T) string {
	t.Helper()
	f.apply(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: overseer, namespace: dev}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: overseer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-problem-detector}
subjects: [{kind: ServiceAccount, name: overseer, namespace: dev}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: list-nodes}
rules: [{apiGroups: [""], resources: [nodes], verbs: [list]}, {apiGroups: [culvert.dev], resources: [relays/streams], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: list-nodes}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: list-nodes}
subjects: [{kind: ServiceAccount, name: overseer, namespace: dev}]
`)
	return f.account("dev", "overseer")
}

// stock returns what kube-apiserver says to a port-forward.
func (f *fixture) stock(t *testing.T, token string, target relay.Target) string {
	t.Helper()
	pem, err := os.ReadFile(f.c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, address string) (net.Conn, error) { return f.c.Relay.Dial(ctx, address) },
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		f.c.Server()+"/api/v1/namespaces/"+target.Namespace+"/pods/"+target.Pod+"/portforward", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var status struct {
		Code    int
		Message string
	}
	if err := json.NewDecoder(res.Body).Decode(&status); err != nil || status.Code != http.StatusForbidden {
		t.Fatalf("%+v, %v", status, err)
	}
	return status.Message
}

// places: only what runs and may be reached has one.
func places(t *testing.T, f *fixture) {
	k := f.kube(t)
	who := mustClient(t, k, f.account("dev", "dev"))
	pod, err := f.pod(t.Context(), "dev", "web")
	if err != nil {
		t.Fatal(err)
	}
	if place, err := k.Locate(t.Context(), who, web()); err != nil || place.Node != "node2" || place.UID != pod.Metadata.UID || place.About == nil {
		t.Errorf("%+v, %v", place, err)
	}
	for name, want := range map[string]struct {
		code stream.Code
		text string
	}{
		"nothing": {stream.PodNotFound, `pods "nothing" not found`},
		"waits":   {stream.Unreachable, "not scheduled"},
		"host":    {stream.Policy, "node's own network"},
	} {
		_, err := k.Locate(t.Context(), who, relay.Target{Namespace: "dev", Pod: name, Port: 1})
		if stream.CodeOf(err) != want.code || !strings.Contains(stream.TextOf(err), want.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	generous := f.kube(t, func(c *kube.Config) { c.AllowHostNetwork = true })
	if place, err := generous.Locate(t.Context(), who, relay.Target{Namespace: "dev", Pod: "host", Port: 1}); err != nil || place.Node != "node1" {
		t.Errorf("%+v, %v", place, err)
	}
}

// impersonation: the relay can do for somebody what both of them may.
func impersonation(t *testing.T, f *fixture) {
	ca := x509.NewCertPool()
	pem, err := os.ReadFile(f.c.CAFile())
	if err != nil || !ca.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	k := f.kube(t, func(c *kube.Config) { c.Impersonate, c.ClientCA = true, func() *x509.CertPool { return ca } })
	login := func(user string, groups ...string) relay.Identity {
		t.Helper()
		state := tls.ConnectionState{
			NegotiatedProtocol: stream.ALPNClient, PeerCertificates: []*x509.Certificate{f.certificate(t, user, groups...)},
		}
		who, err := k.Callers().Authenticate(t.Context(), state, &stream.Hello{Credential: stream.CredentialTLS})
		if err != nil || who.Name != user {
			t.Fatalf("%+v, %v", who, err)
		}
		return who
	}
	jane := login("jane", "devs")
	if err := k.Authorize(t.Context(), jane, web()); err != nil {
		t.Error(err)
	}
	if place, err := k.Locate(t.Context(), jane, web()); err != nil || place.Node != "node2" {
		t.Errorf("%+v, %v", place, err)
	}
	// What jane may not the relay may not for her, though it could review tokens.
	err = k.Authorize(t.Context(), jane, relay.Target{Namespace: "culvert-agent", Pod: "agent-1", Port: 1})
	if stream.CodeOf(err) != stream.Forbidden || !strings.Contains(stream.TextOf(err), `User "jane" cannot create resource "pods/portforward"`) {
		t.Errorf("%v", err)
	}
	for name, who := range map[string]relay.Identity{
		"another user": login("kim"), "an administrator": login("jane", "system:masters"), "the agents": login("system:serviceaccount:culvert-agent:culvert-agent"),
	} {
		err := k.Authorize(t.Context(), who, web())
		if stream.CodeOf(err) != stream.Forbidden || !strings.Contains(stream.TextOf(err), "cannot impersonate") {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
	strict := f.kube(t)
	state := tls.ConnectionState{NegotiatedProtocol: stream.ALPNClient, PeerCertificates: []*x509.Certificate{f.certificate(t, "jane", "devs")}}
	if _, err := strict.Callers().Authenticate(t.Context(), state, &stream.Hello{Credential: stream.CredentialTLS}); stream.CodeOf(err) != stream.Unauthenticated {
		t.Errorf("impersonation without being allowed: %v", err)
	}
}

// rebirth: a pod that comes again is another one, and no end of a session; one
// that does not is.
func rebirth(t *testing.T, f *fixture) {
	k := f.kube(t, func(c *kube.Config) { c.WatchGrace = 20 * time.Second; c.PlaceTTL = time.Hour })
	hasty := f.kube(t)
	who := mustClient(t, k, f.account("dev", "dev"))
	mortal := relay.Target{Namespace: "dev", Pod: "mortal", Port: 8080}
	text := podText("dev", "mortal", "node1", "")
	f.apply(text)
	f.running("dev/mortal")
	before, err := k.Locate(t.Context(), who, mortal)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	patient, why := k.Watch(ctx, who, mortal)
	f.remove(t, "/api/v1/namespaces/dev/pods/mortal")
	f.apply(text)
	f.running("dev/mortal")
	if place, err := k.Locate(t.Context(), who, mortal); err != nil || place != before {
		t.Errorf("remembered: %+v, %v", place, err)
	}
	k.Forget(mortal, before)
	after, err := k.Locate(t.Context(), who, mortal)
	if err != nil || after.UID == before.UID || after.Node != "node1" {
		t.Errorf("born again: %+v, %v", after, err)
	}
	select {
	case <-patient:
		t.Errorf("born again, and the session is over: %v", why())
	default:
	}
	over, why := hasty.Watch(ctx, who, mortal)
	f.remove(t, "/api/v1/namespaces/dev/pods/mortal")
	select {
	case <-over:
		if stream.CodeOf(why()) != stream.PodNotFound {
			t.Errorf("%v", why())
		}
	case <-time.After(longEnough):
		t.Error("gone for good, and the session goes on")
	}
	cancel()
}

// revocation: rights and tokens that are taken away stop new streams.
func revocation(t *testing.T, f *fixture) {
	k := f.kube(t)
	who := mustClient(t, k, f.account("dev", "dev"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over, why := k.Watch(ctx, who, web())
	if err := k.Authorize(t.Context(), who, web()); err != nil {
		t.Fatal(err)
	}
	f.remove(t, "/apis/rbac.authorization.k8s.io/v1/namespaces/dev/rolebindings/forward")
	f.becomes(t, stream.Forbidden, func(ctx context.Context) error { return k.Authorize(ctx, who, web()) })
	select {
	case <-over:
		if stream.CodeOf(why()) != stream.Forbidden {
			t.Errorf("%v", why())
		}
	case <-time.After(longEnough):
		t.Error("revoked, and the session goes on")
	}
	blind := f.account("dev", "blind")
	who = mustClient(t, k, blind)
	if err := k.Authorize(t.Context(), who, web()); err != nil {
		t.Fatal(err)
	}
	f.remove(t, "/api/v1/namespaces/dev/serviceaccounts/blind")
	f.becomes(t, stream.Unauthenticated, func(ctx context.Context) error { return k.Authorize(ctx, who, web()) })
	f.becomes(t, stream.Unauthenticated, func(ctx context.Context) error { _, err := client(ctx, k, blind); return err })
	if err := k.Callers().(relay.Revalidator).Revalidate(t.Context(), who); err != nil {
		t.Errorf("what runs was ended: %v", err)
	}
	cancel()
}

// agentGone: the token of a pod that is gone lets nobody in and nobody stay.
func agentGone(t *testing.T, f *fixture) {
	k := f.kube(t)
	token := f.projected(t, "culvert-agent", "agent-2", "culvert-agent", "culvert-relay")
	who, err := agent(t.Context(), k, token)
	if err != nil {
		t.Fatal(err)
	}
	judge := k.Agents().(relay.Revalidator)
	if err := judge.Revalidate(t.Context(), who); err != nil {
		t.Error(err)
	}
	f.remove(t, "/api/v1/namespaces/culvert-agent/pods/agent-2")
	f.becomes(t, stream.Unauthenticated, func(ctx context.Context) error { _, err := agent(ctx, k, token); return err })
	f.becomes(t, stream.Unauthenticated, func(ctx context.Context) error { return judge.Revalidate(ctx, who) })
}

// away: while the API server cannot be asked nobody new comes in, and no node
// goes; when it is back all is as before.
func away(t *testing.T, f *fixture) {
	k := f.kube(t)
	f.apply(objects)
	who := mustClient(t, k, f.account("dev", "dev"))
	f.becomes(t, stream.OK, func(ctx context.Context) error { return k.Authorize(ctx, who, web()) })
	token := f.projected(t, "culvert-agent", "agent-1", "culvert-agent", "culvert-relay")
	node, err := agent(t.Context(), k, token)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over, why := k.Watch(ctx, who, web())
	f.c.Control.APIServer.Stop()
	f.becomes(t, stream.Unreachable, func(ctx context.Context) error { return k.Authorize(ctx, who, web()) })
	_, err = agent(t.Context(), f.kube(t), token)
	if stream.CodeOf(err) != stream.Unreachable {
		t.Errorf("%v", err)
	}
	if err := k.Agents().(relay.Revalidator).Revalidate(t.Context(), node); err != nil {
		t.Errorf("a node must go because the API server is away: %v", err)
	}
	if err := f.c.Control.APIServer.Start(); err != nil {
		t.Fatal(err)
	}
	f.becomes(t, stream.OK, func(ctx context.Context) error { return k.Authorize(ctx, who, web()) })
	f.becomes(t, stream.OK, func(ctx context.Context) error { _, err := agent(ctx, k, token); return err })
	select {
	case <-over:
		t.Errorf("over because the API server was away: %v", why())
	default:
	}
	cancel()
}
