package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// cluster is a judge of tokens that notes what it is asked.
type cluster struct{ asked string }

func (c *cluster) Authenticate(context.Context, tls.ConnectionState, *stream.Hello) (relay.Identity, error) {
	c.asked += "authenticate "
	return relay.Identity{Role: relay.RoleNode, Name: "node-1"}, nil
}

func (c *cluster) Revalidate(context.Context, relay.Identity) error {
	c.asked += "revalidate "
	return nil
}

func (c *cluster) RenewToken(_ context.Context, who relay.Identity, _ string) (relay.Identity, time.Time, error) {
	c.asked += "renew "
	return who, time.Time{}, nil
}

// Every agent is judged by the one that let it in.
func TestAgentJudges(t *testing.T) {
	c := &cluster{}
	joins := ""
	judges := &agentJudges{tokens: c, rest: &relay.Credentials{
		JoinToken: func(s string) bool { joins += s + " "; return true },
		Node:      func(*x509.Certificate) (string, error) { return "node-2", nil },
	}}
	agent := tls.ConnectionState{NegotiatedProtocol: stream.ALPNAgent}
	for _, hello := range []*stream.Hello{
		{Credential: stream.CredentialToken, Token: "cluster"},
		{Credential: stream.CredentialJoin, Token: "join"},
	} {
		if _, err := judges.Authenticate(t.Context(), agent, hello); err != nil {
			t.Error(err)
		}
	}
	cert := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
	nodes := map[string]relay.Identity{
		"token":       {Role: relay.RoleNode, Name: "node-1"},
		"certificate": {Role: relay.RoleNode, Name: "node-2", Cert: cert},
	}
	for _, who := range nodes {
		if err := judges.Revalidate(t.Context(), who); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := judges.RenewToken(t.Context(), nodes["token"], "next"); err != nil {
		t.Error(err)
	}
	if _, _, err := judges.RenewToken(t.Context(), nodes["certificate"], "next"); stream.CodeOf(err) != stream.Forbidden {
		t.Error(err)
	}
	if c.asked != "authenticate revalidate renew " || joins != "join " {
		t.Errorf("asked %q, %q", c.asked, joins)
	}
}
