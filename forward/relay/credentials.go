package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Credentials is an Authenticator over certificates and tokens that the relay
// can judge by itself. A field that is nil means that such a credential is not
// taken; the zero value takes none.
type Credentials struct {
	// Node accepts the certificate of a node, already verified against the
	// authority for agents, and returns its name. It is asked again while the
	// node's session lives.
	Node func(*x509.Certificate) (string, error)

	// User accepts the certificate of a user, already verified against the
	// authority for clients. It is asked again while the session lives.
	User func(*x509.Certificate) (identity.Peer, error)

	// JoinToken and ClientToken tell whether a token is the right one, in
	// constant time.
	JoinToken   func(string) bool
	ClientToken func(string) bool

	// Now is the clock for the end of certificates. nil: time.Now.
	Now func() time.Time
}

var (
	_ Authenticator = (*Credentials)(nil)
	_ Revalidator   = (*Credentials)(nil)
)

// token is a Proof that no log line can show.
type token struct{ secret string }

// String hides the token.
func (token) String() string { return "token" }

// GoString hides the token.
func (token) GoString() string { return "token" }

// Authenticate judges a credential. Which kinds are taken depends on whether
// the peer came as an agent or as a client.
func (c *Credentials) Authenticate(_ context.Context, state tls.ConnectionState, hello *stream.Hello) (Identity, error) {
	agent := state.NegotiatedProtocol == stream.ALPNAgent
	client := state.NegotiatedProtocol == stream.ALPNClient
	proof := token{hello.Token}
	switch {
	case agent && hello.Credential == stream.CredentialTLS && c.Node != nil:
		return c.node(verified(state))
	case agent && hello.Credential == stream.CredentialJoin && c.JoinToken != nil:
		return Identity{Role: RoleJoiner, Name: "joiner", Proof: proof}, c.joiner(proof)
	case client && hello.Credential == stream.CredentialTLS && c.User != nil:
		return c.user(verified(state))
	case client && hello.Credential == stream.CredentialToken && c.ClientToken != nil:
		return Identity{Role: RoleUser, Name: identity.UserToken, Proof: proof}, c.bearer(proof)
	}
	return Identity{}, unauthenticated("the relay does not take a credential of kind " + hello.Credential.String() + " here")
}

// Revalidate judges again a peer that was authenticated: certificates end,
// nodes are forgotten, tokens are replaced.
func (c *Credentials) Revalidate(_ context.Context, who Identity) error {
	again := Identity{Name: who.Name}
	var err error
	proof, _ := who.Proof.(token)
	switch {
	case who.Role == RoleNode && c.Node != nil:
		again, err = c.node(who.Cert)
	case who.Role == RoleUser && who.Cert != nil && c.User != nil:
		again, err = c.user(who.Cert)
	case who.Role == RoleUser && who.Cert == nil && c.ClientToken != nil:
		err = c.bearer(proof)
	case who.Role == RoleJoiner && c.JoinToken != nil:
		err = c.joiner(proof)
	default:
		err = unauthenticated("the credential is not taken any more")
	}
	if err == nil && again.Name != who.Name {
		err = unauthenticated("the credential is for somebody else now")
	}
	return err
}

func (c *Credentials) joiner(t token) error {
	if !c.JoinToken(t.secret) {
		return unauthenticated("the join token is not the relay's")
	}
	return nil
}

func (c *Credentials) bearer(t token) error {
	if !c.ClientToken(t.secret) {
		return unauthenticated("the client token is not the relay's")
	}
	return nil
}

func (c *Credentials) node(leaf *x509.Certificate) (Identity, error) {
	if err := c.fresh(leaf); err != nil {
		return Identity{}, err
	}
	name, err := c.Node(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("judge certificate of a node: %w", err)
	}
	return Identity{Role: RoleNode, Name: name, Cert: leaf}, nil
}

func (c *Credentials) user(leaf *x509.Certificate) (Identity, error) {
	if err := c.fresh(leaf); err != nil {
		return Identity{}, err
	}
	p, err := c.User(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("judge certificate of a user: %w", err)
	}
	return Identity{Role: RoleUser, Name: p.Name, Groups: p.Groups, Cert: leaf}, nil
}

// fresh refuses a certificate that is missing or over. TLS has looked at the
// dates too, but once.
func (c *Credentials) fresh(leaf *x509.Certificate) error {
	if leaf == nil {
		return unauthenticated("no certificate was presented")
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	if now().After(leaf.NotAfter) {
		return unauthenticated("the certificate ended at " + leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// verified returns the peer's certificate if TLS has verified it.
func verified(state tls.ConnectionState) *x509.Certificate {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	return state.VerifiedChains[0][0]
}

func unauthenticated(text string) error {
	return &stream.Error{Code: stream.Unauthenticated, Text: text}
}
