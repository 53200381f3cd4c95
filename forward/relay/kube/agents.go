package kube

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"golang.org/x/time/rate"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// extraNodeName is where the API server writes the node that a token is bound to
// (KEP-4193), taken from the signed token.
const extraNodeName = "authentication.kubernetes.io/node-name"

const (
	agentDenialTTL = 5 * time.Second
	reviewAgain    = time.Minute // when the API server was away
)

// Why an agent's token is refused, in metrics.
const (
	reasonToken    = "token" // not a token of a service account
	reasonAudience = "audience"
	reasonAccount  = "account"
	reasonExpired  = "expired"
	reasonNode     = "node"
	reasonDenied   = "denied" // forged, or its pod is gone
	reasonReview   = "review-failed"
	reasonCrowd    = "crowd"
)

// agents tell who an agent is from its service account token.
type agents struct {
	audience, user string // that a token must be for
	calls          *calls
	metrics        *metrics
	reviewEvery    time.Duration
	reviewTTL      time.Duration
	knocking       *turns        // of who knocks
	standing       *rate.Limiter // of who is in: whoever knocks must not spoil it for them
	verdicts       *memo[[sha256.Size]byte, verdict]
}

var (
	_ relay.Authenticator = (*agents)(nil)
	_ relay.Revalidator   = (*agents)(nil)
	_ relay.TokenRenewer  = (*agents)(nil)
)

// verdict is what the API server said of a token.
type verdict struct {
	node   string
	reason string // empty: it is good
	text   string // for the agent's log
}

func (v verdict) err() error {
	if v.reason == "" {
		return nil
	}
	return &stream.Error{Code: stream.Unauthenticated, Text: v.text}
}

// nodeProof is the token of a node whose session lives.
type nodeProof struct {
	token   string
	expires time.Time
	next    atomic.Int64 // when to review it again, in nanoseconds since 1970
}

// String hides the token.
func (*nodeProof) String() string { return "token" }

// GoString hides the token.
func (*nodeProof) GoString() string { return "token" }

// Agents returns the judge of agents. It is a relay.TokenRenewer and a
// relay.Revalidator too. A node is who the API server says that its token was
// made for: the agent's own word is not asked. Without Config.AgentAccount it
// refuses everybody.
func (k *Kube) Agents() relay.Authenticator { return k.agents }

// Authenticate takes a token of the agents' service account.
func (a *agents) Authenticate(ctx context.Context, state tls.ConnectionState, hello *stream.Hello) (relay.Identity, error) {
	if state.NegotiatedProtocol != stream.ALPNAgent || hello.Credential != stream.CredentialToken || a.user == "" {
		a.metrics.agentRefused(reasonToken)
		return relay.Identity{}, &stream.Error{
			Code: stream.Unauthenticated,
			Text: "this relay takes agents with a service account token: start the agent with --token-file",
		}
	}
	id, _, err := a.judge(ctx, a.knocking.wait, hello.Token)
	return id, err
}

// RenewToken takes the next token of a node.
func (a *agents) RenewToken(ctx context.Context, who relay.Identity, token string) (relay.Identity, time.Time, error) {
	if _, ok := who.Proof.(*nodeProof); !ok || who.Role != relay.RoleNode {
		return relay.Identity{}, time.Time{}, &stream.Error{Code: stream.Forbidden, Text: "this session was not opened with a token"}
	}
	if len(token) > stream.MaxToken || !isToken(token) {
		a.metrics.agentRefused(reasonToken)
		return relay.Identity{}, time.Time{}, &stream.Error{Code: stream.Malformed, Text: "the next token is not one"}
	}
	next, c, err := a.judge(ctx, func(ctx context.Context, text string) error {
		return turn(ctx, a.standing, text)
	}, token)
	if err != nil {
		return relay.Identity{}, time.Time{}, err
	}
	if next.Name != who.Name {
		a.metrics.agentRefused(reasonNode)
		return relay.Identity{}, time.Time{}, &stream.Error{
			Code: stream.Unauthenticated,
			Text: fmt.Sprintf("the next token is for node %q, the session is of node %q", next.Name, who.Name),
		}
	}
	// Nodes of one rollout have tokens of one age, and should not come at once.
	spread := c.expires.Sub(c.issued) / 40
	return next, c.over().Add(spread - less(spread, 1)), nil
}

// Revalidate tells whether a node may still be here. Its token is reviewed again
// from time to time; while that cannot be done it is good until its end.
func (a *agents) Revalidate(ctx context.Context, who relay.Identity) error {
	proof, ok := who.Proof.(*nodeProof)
	if !ok || who.Role != relay.RoleNode {
		return &stream.Error{Code: stream.Unauthenticated, Text: "the credential is not taken any more"}
	}
	now := time.Now()
	if !now.Before(proof.expires) {
		a.metrics.agentRefused(reasonExpired)
		return a.refused(reasonExpired).err()
	}
	due := proof.next.Load()
	if now.UnixNano() < due || !proof.next.CompareAndSwap(due, now.Add(less(a.reviewEvery, 5)).UnixNano()) {
		return nil
	}
	v, err := verdict{}, error(nil)
	if a.standing.Allow() {
		v, err = a.review(ctx, proof.token)
	}
	if err != nil || v == (verdict{}) {
		proof.next.Store(now.Add(less(reviewAgain, 2)).UnixNano())
		return nil //nolint:nilerr // that the API server cannot be asked says nothing about the node
	}
	if v.reason == "" && v.node != who.Name {
		v = a.refused(reasonNode)
	}
	if v.reason != "" {
		a.metrics.agentRefused(v.reason)
	}
	return v.err()
}

// judge says whose token it is, from memory if it was good a moment ago.
func (a *agents) judge(ctx context.Context, turn waiting, token string) (relay.Identity, claims, error) {
	c, err := parseClaims(token)
	v := a.refused(reasonToken)
	if err == nil {
		v = a.refused(c.refusal(a.user, a.audience, time.Now()))
	}
	// What the token says of itself is enough to spare the API server a question.
	if v.reason == "" {
		v, err = a.verdicts.get(ctx, sha256.Sum256([]byte(token)), func(ctx context.Context) (verdict, time.Duration, error) {
			return a.ask(ctx, turn, token, &c)
		})
		if err != nil {
			a.metrics.agentRefused(reasonOf(err))
			return relay.Identity{}, c, err
		}
	}
	if v.reason != "" {
		a.metrics.agentRefused(v.reason)
		return relay.Identity{}, c, v.err()
	}
	proof := &nodeProof{token: token, expires: c.expires}
	proof.next.Store(time.Now().Add(less(a.reviewEvery, 5)).UnixNano())
	return relay.Identity{Role: relay.RoleNode, Name: v.node, Proof: proof}, c, nil
}

func reasonOf(err error) string {
	if stream.CodeOf(err) == stream.Overloaded {
		return reasonCrowd
	}
	return reasonReview
}

func (a *agents) ask(ctx context.Context, turn waiting, token string, c *claims) (verdict, time.Duration, error) {
	if err := turn(ctx, "more agents come at once than the API server may be asked about; try again later"); err != nil {
		return verdict{}, 0, err
	}
	v, err := a.review(ctx, token)
	if err != nil {
		return verdict{}, 0, err
	}
	if v.reason != "" {
		return v, agentDenialTTL, nil
	}
	return v, min(less(a.reviewTTL, 10), time.Until(c.expires)), nil
}

// review asks the API server. An error says nothing about the token.
func (a *agents) review(ctx context.Context, token string) (verdict, error) {
	tr, err := a.calls.tokenReview(ctx, token, a.audience)
	if err != nil {
		// Also when the API server refuses the relay: that is not the agent's fault.
		code := stream.CodeOf(err)
		if code != stream.Overloaded && code != stream.Timeout && code != stream.Canceled {
			code = stream.Unreachable
		}
		return verdict{}, fmt.Errorf("review token: %w: %s",
			&stream.Error{Code: code, Text: "the relay cannot have the token reviewed now; try again later"}, err.Error())
	}
	return a.conclude(&tr.Status), nil
}

func (a *agents) conclude(s *authenticationv1.TokenReviewStatus) verdict {
	node := s.User.Extra[extraNodeName]
	switch {
	case !s.Authenticated || s.Error != "":
		return a.refused(reasonDenied)
	case !slices.Contains(s.Audiences, a.audience):
		return a.refused(reasonAudience)
	case s.User.Username != a.user:
		return a.refused(reasonAccount)
	case len(node) != 1 || !isName(node[0]):
		return a.refused(reasonNode)
	}
	return verdict{node: node[0]}
}

// refused puts a reason into words. The empty reason is no refusal.
func (a *agents) refused(reason string) verdict {
	v := verdict{reason: reason}
	switch reason {
	case reasonToken:
		v.text = "the credential is not a token of a service account: give the agent a projected one"
	case reasonAudience:
		v.text = fmt.Sprintf("the token is not for audience %q: set audience in the agent's projected volume", a.audience)
	case reasonAccount:
		v.text = fmt.Sprintf("the token is not of %s, as which agents run: look at the agent's serviceAccountName", a.user)
	case reasonExpired:
		v.text = "the token is over: read its file again, which kubelet keeps fresh"
	case reasonNode:
		v.text = "the token is not bound to this node: it must be projected into a pod there by Kubernetes 1.30 or later (ServiceAccountTokenPodNodeInfo)"
	case reasonDenied:
		v.text = "the API server does not take the token: it is another cluster's, or its pod is gone"
	}
	return v
}

// less returns d or up to a part of it less, so that what began together does
// not come back together.
func less(d time.Duration, part int) time.Duration {
	return d - rand.N(d/time.Duration(part)+1) //nolint:gosec // jitter, not a secret
}
