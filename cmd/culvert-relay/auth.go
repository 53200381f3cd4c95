package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/standalone"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// openState takes certificate, tokens and node names from the state directory.
func (p *parts) openState(f *serveFlags) error {
	if f.stateDir == "" {
		return nil
	}
	st, err := standalone.Open(standalone.Config{Dir: f.stateDir, Advertise: f.advertise, Report: p.report})
	if err != nil {
		return err
	}
	p.state = st
	p.tls.GetCertificate = st.GetCertificate
	p.tls.AgentCAs = st.CAPool
	p.creds.Node, p.creds.JoinToken, p.creds.ClientToken = st.VerifyNode, st.CheckJoinToken, st.CheckClientToken
	p.cfg.Issuer = st
	p.cfg.Log.Info("state", "dir", f.stateDir, "ca_pin", st.Pin())
	return nil
}

// loadPKI puts certificates from elsewhere in the place of the relay's own.
func (p *parts) loadPKI(f *serveFlags) error {
	watch := identity.WatchConfig{Report: p.report}
	if f.tlsCert != "" {
		pair, err := identity.LoadKeyPair(f.tlsCert, f.tlsKey, watch)
		if err != nil {
			return err
		}
		p.tls.GetCertificate = pair.GetCertificate
	}
	if f.agentCA != "" {
		cas, err := identity.LoadCAs(f.agentCA, watch)
		if err != nil {
			return err
		}
		p.tls.AgentCAs = cas.Pool
		p.creds.Node = func(c *x509.Certificate) (string, error) {
			name, err := identity.NameOf(c, identity.RoleNode)
			return name, refusal(err)
		}
		p.creds.JoinToken, p.cfg.Issuer = nil, nil
	}
	if f.clientCA != "" {
		cas, err := identity.LoadCAs(f.clientCA, watch)
		if err != nil {
			return err
		}
		p.tls.ClientCAs = cas.Pool
		p.creds.User = func(c *x509.Certificate) (identity.Peer, error) {
			who, err := identity.PeerOf(c)
			return who, refusal(err)
		}
	}
	return nil
}

// refusal makes what is wrong with a certificate an answer to who showed it.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	return &stream.Error{Code: stream.Unauthenticated, Text: err.Error()}
}

// authenticator makes one judge of all: what the relay can tell by itself, and
// what it asks the cluster.
func (p *parts) authenticator(f *serveFlags) relay.Authenticator {
	if p.kube == nil {
		return p.creds
	}
	all := &relay.ByPeer{Agents: p.creds, Clients: p.creds}
	if f.kube.callers {
		all.Clients = p.kube.Callers()
	}
	if f.kube.agentAccount != "" {
		all.Agents = p.kube.Agents()
		if f.stateDir != "" || f.agentCA != "" {
			all.Agents = &agentJudges{tokens: all.Agents, rest: p.creds}
		}
	}
	return all
}

// agentJudges are for agents of which some have tokens of the cluster and others
// certificates, or a join token to get one.
type agentJudges struct {
	tokens relay.Authenticator
	rest   *relay.Credentials
}

var (
	_ relay.Authenticator = (*agentJudges)(nil)
	_ relay.Revalidator   = (*agentJudges)(nil)
	_ relay.TokenRenewer  = (*agentJudges)(nil)
)

// Authenticate asks the one for the kind of the credential.
func (a *agentJudges) Authenticate(ctx context.Context, state tls.ConnectionState, hello *stream.Hello) (relay.Identity, error) {
	if hello.Credential == stream.CredentialToken {
		return a.tokens.Authenticate(ctx, state, hello)
	}
	return a.rest.Authenticate(ctx, state, hello)
}

// byToken tells whether an agent was let in by its token: it is a node without a
// certificate.
func byToken(who relay.Identity) bool { return who.Role == relay.RoleNode && who.Cert == nil }

// Revalidate asks the one that let the agent in.
func (a *agentJudges) Revalidate(ctx context.Context, who relay.Identity) error {
	if !byToken(who) {
		return a.rest.Revalidate(ctx, who)
	}
	if again, ok := a.tokens.(relay.Revalidator); ok {
		return again.Revalidate(ctx, who)
	}
	return nil
}

// RenewToken is for agents with a token; a certificate is not traded for one.
func (a *agentJudges) RenewToken(ctx context.Context, who relay.Identity, token string) (relay.Identity, time.Time, error) {
	renewer, ok := a.tokens.(relay.TokenRenewer)
	if !ok || !byToken(who) {
		return relay.Identity{}, time.Time{}, &stream.Error{Code: stream.Forbidden, Text: "this session was not opened with a token"}
	}
	return renewer.RenewToken(ctx, who, token)
}
