package relay

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// ByPeer is an Authenticator made of two: one for agents, one for clients. Either
// may have the optional parts of an Authenticator; nil takes nobody.
type ByPeer struct {
	Agents, Clients Authenticator
}

var (
	_ Authenticator = (*ByPeer)(nil)
	_ Revalidator   = (*ByPeer)(nil)
	_ TokenRenewer  = (*ByPeer)(nil)
)

// Authenticate asks the one for the protocol of the session.
func (b *ByPeer) Authenticate(ctx context.Context, state tls.ConnectionState, hello *stream.Hello) (Identity, error) {
	judge := b.Clients
	if state.NegotiatedProtocol == stream.ALPNAgent {
		judge = b.Agents
	}
	if judge == nil {
		return Identity{}, unauthenticated("the relay takes no credential here")
	}
	return judge.Authenticate(ctx, state, hello)
}

// Revalidate asks the one that let the peer in, if it wants to be asked.
func (b *ByPeer) Revalidate(ctx context.Context, who Identity) error {
	judge := b.Agents
	if who.Role == RoleUser {
		judge = b.Clients
	}
	if again, ok := judge.(Revalidator); ok {
		return again.Revalidate(ctx, who)
	}
	return nil
}

// RenewToken asks the one for agents.
func (b *ByPeer) RenewToken(ctx context.Context, who Identity, token string) (Identity, time.Time, error) {
	if judge, ok := b.Agents.(TokenRenewer); ok {
		return judge.RenewToken(ctx, who, token)
	}
	return Identity{}, time.Time{}, &stream.Error{Code: stream.Unsupported, Text: "this relay renews no tokens"}
}
