package kube

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// userAnonymous is who the API server sees where there is no credential.
const userAnonymous = "system:anonymous"

const (
	// maxGroups bounds the groups of a user. Who has more is refused: a policy may
	// be about any of them.
	maxGroups = 4096
	// groupAuthenticated is what the API server adds to the groups of everybody whom
	// it knows.
	groupAuthenticated = "system:authenticated"
)

// callers tell who a client is.
type callers struct{ *Kube }

var (
	_ relay.Authenticator = callers{}
	_ relay.Revalidator   = callers{}
)

// Callers returns the judge of clients: a bearer token is shown to the API
// server, a client certificate of Config.ClientCA is judged here. It is a
// relay.Revalidator too.
func (k *Kube) Callers() relay.Authenticator { return callers{k} }

// Authenticate takes a bearer token or a certificate.
func (c callers) Authenticate(ctx context.Context, state tls.ConnectionState, hello *stream.Hello) (relay.Identity, error) {
	refuse := func(text string) (relay.Identity, error) {
		c.metrics.callerRefused(stream.Unauthenticated)
		return relay.Identity{}, &stream.Error{Code: stream.Unauthenticated, Text: text}
	}
	if state.NegotiatedProtocol != stream.ALPNClient {
		return refuse("only clients are taken here")
	}
	switch hello.Credential {
	case stream.CredentialToken:
		if !isToken(hello.Token) {
			return refuse("the token is none that the API server could take: log in again")
		}
		return c.Known(ctx, relay.Identity{Role: relay.RoleUser, Proof: bearer(hello.Token, nil)})
	case stream.CredentialTLS:
		if p, ok := c.certified(state.PeerCertificates); ok {
			return c.lend(ctx, p)
		}
		return refuse("the relay takes no client certificate of this kind: use a token")
	}
	return refuse("the relay takes a token of the cluster here")
}

// Revalidate ends no session of a user: a credential that is over is refused
// with the next stream, and what runs may run on.
func (c callers) Revalidate(context.Context, relay.Identity) error { return nil }

// lend returns the identity of somebody who proved to the relay who he is.
func (k *Kube) lend(ctx context.Context, p person) (relay.Identity, error) {
	c, err := impersonated(p)
	if err != nil {
		return relay.Identity{}, err
	}
	return k.Known(ctx, relay.Identity{Role: relay.RoleUser, Proof: c})
}

// named is what the API server said of a token.
type named struct {
	name   string
	groups []string
	text   string // why it is refused; empty: it is not
}

// Known returns who with the name and groups that the API server has for it,
// remembered for Config.CallerTTL. It refuses nobody and credentials that are
// over with Unauthenticated.
func (k *Kube) Known(ctx context.Context, who relay.Identity) (relay.Identity, error) {
	id, err := k.known(ctx, who)
	if err != nil {
		k.metrics.callerRefused(stream.CodeOf(err))
	}
	return id, err
}

func (k *Kube) known(ctx context.Context, who relay.Identity) (relay.Identity, error) {
	c, err := caller(who)
	if err != nil {
		return relay.Identity{}, err
	}
	n := named{name: c.user, groups: append(slices.Clip(c.groups), groupAuthenticated)}
	if !c.lent {
		n, err = k.names.get(ctx, c.key, func(ctx context.Context) (named, time.Duration, error) { return k.whoami(ctx, c) })
	}
	switch {
	case err != nil:
		return relay.Identity{}, fmt.Errorf("ask who a caller is: %w", err)
	case n.text != "":
		return relay.Identity{}, &stream.Error{Code: stream.Unauthenticated, Text: n.text}
	case n.name == userAnonymous || n.name == "":
		return relay.Identity{}, errNobody()
	case len(n.groups) > maxGroups:
		return relay.Identity{}, &stream.Error{Code: stream.Forbidden, Text: fmt.Sprintf("the user is in more than %d groups, which is more than the relay can judge", maxGroups)}
	}
	who.Name, who.Exact, who.Groups = printable(n.name), "", n.groups
	if who.Name != n.name {
		who.Exact = n.name
	}
	return who, nil
}

func (k *Kube) whoami(ctx context.Context, c *credential) (named, time.Duration, error) {
	// Credentials that were never good share their turns, so that a crowd of them
	// does not take the turns of callers who are known.
	const crowd = "more callers come at once than the API server may be asked about; try again later"
	var err error
	if of, was := k.shares.get(c.key, false); was {
		err = turn(ctx, of.Limiter, crowd)
	} else {
		err = k.strangers.wait(ctx, crowd)
	}
	if err != nil {
		return named{}, 0, err
	}
	answer, err := k.calls.selfSubjectReview(ctx, c)
	switch code := stream.CodeOf(err); {
	case code == stream.Unauthenticated:
		return named{text: stream.TextOf(err)}, k.cfg.DenialTTL, nil
	case code == stream.PodNotFound:
		return named{}, 0, &stream.Error{Code: stream.Unsupported, Text: "the API server has no SelfSubjectReview: Kubernetes 1.28 or later is needed"}
	case err != nil:
		return named{}, 0, err
	}
	u := &answer.Status.UserInfo
	k.shares.get(c.key, true)
	return named{name: u.Username, groups: slices.Clone(u.Groups[:min(len(u.Groups), maxGroups+1)])}, k.cfg.CallerTTL, nil
}

// printable makes a user's name fit for log lines and for the Open that agents
// read, both of which want it short and plain. It is not used to decide anything.
func printable(name string) string {
	plain := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, name)
	for len(plain) > stream.MaxUser {
		plain = strings.ToValidUTF8(plain[:stream.MaxUser], "")
	}
	return plain
}
