package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// reviewer knows nodes by tokens.
type reviewer struct{ *judge }

func (reviewer) RenewToken(_ context.Context, who Identity, token string) (Identity, time.Time, error) {
	switch token {
	case "fault":
		return Identity{}, time.Time{}, errors.New("dial /secret")
	case "stale":
		return Identity{}, time.Time{}, unauthenticated("the token is over")
	case "other":
		who.Name = "node-b"
	case "user":
		who.Role = RoleUser
	}
	who.Proof = token
	return who, time.Unix(1e9, 0), nil
}

// A node without a certificate lives by its tokens.
func TestNodeByToken(t *testing.T) {
	r := newRig(t, Config{Issuer: &issuer{}})
	r.s.cfg.Auth = &ByPeer{Agents: reviewer{r.judge}}
	r.control()
	l := r.connect(Identity{Role: RoleNode, Name: "node-a", Proof: "first"}, tunnel.Config{})
	call, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: "i"})
	if err != nil {
		t.Fatal(err)
	}
	c := controlv1.NewRegistryClient(l.calls())
	for token, want := range map[string]codes.Code{
		"fault": codes.Internal, "stale": codes.Unauthenticated, "other": codes.Unauthenticated, "user": codes.Unauthenticated,
		strings.Repeat("x", stream.MaxToken+1): codes.InvalidArgument,
		"":                                     codes.PermissionDenied, // it has no certificate to renew
	} {
		if _, err := c.Renew(within(t), &controlv1.RenewRequest{Token: token}); status.Code(err) != want || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.10s: %v, want %s", token, err, want)
		}
		if who := l.peer.who(); who.Proof != "first" || who.Name != "node-a" {
			t.Fatalf("%.10s makes it %+v", token, who)
		}
	}
	var m bytes.Buffer
	r.s.WriteMetrics(&m)
	if !strings.Contains(m.String(), `culvert_relay_refused_total{reason="renewal"} 6`+"\n") {
		t.Errorf("refusals are not counted:\n%s", &m)
	}
	got, err := c.Renew(within(t), &controlv1.RenewRequest{Token: "second"})
	if err != nil || got.GetRenewAt().AsTime().Unix() != 1e9 || len(got.GetChain()) != 0 || l.peer.who().Proof != "second" {
		t.Errorf("%v, %v, %+v", got, err, l.peer.who())
	}
	r.judge.set(func(who Identity) error {
		if who.Proof != "second" {
			return unauthenticated("the token is over")
		}
		return nil
	})
	sendPods(t, call, report(true, "shop/web=uid-1"))
	eventually(t, "the pod is known", func() bool { return len(r.s.nodes.listPods("")) == 1 })
	r.judge.set(func(Identity) error { return unauthenticated("the token is over") })
	_, _ = c.Renew(within(t), &controlv1.RenewRequest{Token: "third"})
	<-l.far.Done()
}

// Nobody gets a token renewed that did not come with one.
func TestWhoRenewsTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		who  Identity
		auth func(*judge) Authenticator
	}{
		"certificate": {Identity{Role: RoleNode, Name: "node-a", Cert: selfSigned(t, "node-a")}, func(j *judge) Authenticator { return reviewer{j} }},
		"joiner":      {Identity{Role: RoleJoiner, Name: "joiner"}, func(j *judge) Authenticator { return reviewer{j} }},
		"no renewer":  {Identity{Role: RoleNode, Name: "node-a"}, func(j *judge) Authenticator { return j }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.s.cfg.Auth = tc.auth(r.judge)
			r.control()
			l := r.connect(tc.who, tunnel.Config{})
			_, err := controlv1.NewRegistryClient(l.calls()).Renew(within(t), &controlv1.RenewRequest{Token: "x"})
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestByPeer(t *testing.T) {
	agents, clients := credentials(), &judge{}
	b := &ByPeer{Agents: agents, Clients: clients}
	agent, client := tls.ConnectionState{NegotiatedProtocol: stream.ALPNAgent}, tls.ConnectionState{NegotiatedProtocol: stream.ALPNClient}
	if who, err := b.Authenticate(t.Context(), agent, hello(stream.CredentialJoin, "join")); err != nil || who.Role != RoleJoiner {
		t.Errorf("%+v, %v", who, err)
	}
	if who, err := b.Authenticate(t.Context(), client, hello(stream.CredentialJoin, "join")); err != nil || who.Name != "somebody" {
		t.Errorf("%+v, %v", who, err)
	}
	clients.set(func(Identity) error { return unauthenticated("over") })
	if err := b.Revalidate(t.Context(), Identity{Role: RoleUser}); err == nil {
		t.Error("a user is not judged again")
	}
	if err := b.Revalidate(t.Context(), Identity{Role: RoleJoiner, Proof: token{"join"}}); err != nil {
		t.Error(err)
	}
	if _, _, err := b.RenewToken(t.Context(), Identity{Role: RoleNode}, "x"); stream.CodeOf(err) != stream.Unsupported {
		t.Error(err)
	}
	none := &ByPeer{}
	if _, err := none.Authenticate(t.Context(), agent, hello(stream.CredentialJoin, "join")); stream.CodeOf(err) != stream.Unauthenticated {
		t.Error(err)
	}
	if err := none.Revalidate(t.Context(), Identity{Role: RoleNode}); err != nil {
		t.Error(err)
	}
}
