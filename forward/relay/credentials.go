package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Credentials is an Authenticator over certificates and tokens that the relay
// can judge by itself. A field that is nil means that such a credential is not
// taken; the zero value takes none.
type Credentials struct {
	// Node accepts the certificate of a node, already verified against the
	// authority for agents, and returns its name.
	Node func(*x509.Certificate) (string, error)

	// User accepts the certificate of a user, already verified against the
	// authority for clients.
	User func(*x509.Certificate) (identity.Peer, error)

	// JoinToken and ClientToken tell whether a token is the right one, in
	// constant time.
	JoinToken   func(string) bool
	ClientToken func(string) bool
}

var _ Authenticator = (*Credentials)(nil)

// Authenticate judges a credential. Which kinds are taken depends on whether
// the peer came as an agent or as a client.
func (c *Credentials) Authenticate(_ context.Context, state tls.ConnectionState, hello *stream.Hello) (Identity, error) {
	switch agent := state.NegotiatedProtocol == stream.ALPNAgent; {
	case agent && hello.Credential == stream.CredentialTLS && c.Node != nil:
		return c.node(state)
	case agent && hello.Credential == stream.CredentialJoin && c.JoinToken != nil:
		if !c.JoinToken(hello.Token) {
			return Identity{}, unauthenticated("the join token is not the relay's")
		}
		return Identity{Role: RoleJoiner, Name: "joiner"}, nil
	case !agent && hello.Credential == stream.CredentialTLS && c.User != nil:
		return c.user(state)
	case !agent && hello.Credential == stream.CredentialToken && c.ClientToken != nil:
		if !c.ClientToken(hello.Token) {
			return Identity{}, unauthenticated("the client token is not the relay's")
		}
		return Identity{Role: RoleUser, Name: identity.UserToken}, nil
	}
	return Identity{}, unauthenticated("the relay does not take a credential of kind " + hello.Credential.String() + " here")
}

func (c *Credentials) node(state tls.ConnectionState) (Identity, error) {
	leaf := verified(state)
	if leaf == nil {
		return Identity{}, unauthenticated("no certificate of a node was presented")
	}
	name, err := c.Node(leaf)
	if err != nil {
		return Identity{}, unauthenticated(err.Error())
	}
	return Identity{Role: RoleNode, Name: name, Cert: leaf}, nil
}

func (c *Credentials) user(state tls.ConnectionState) (Identity, error) {
	leaf := verified(state)
	if leaf == nil {
		return Identity{}, unauthenticated("no client certificate was presented")
	}
	p, err := c.User(leaf)
	if err != nil {
		return Identity{}, unauthenticated(err.Error())
	}
	return Identity{Role: RoleUser, Name: p.Name, Groups: p.Groups, Cert: leaf}, nil
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
