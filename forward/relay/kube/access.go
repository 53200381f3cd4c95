package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// tooMany is what a caller hears who asks faster than his share.
const tooMany = "too many questions to the API server for one caller; try again later"

var (
	_ relay.Authorizer = (*Kube)(nil)
	_ relay.Knower     = (*Kube)(nil)
	_ relay.Overseer   = (*Kube)(nil)
)

// right is one thing that a caller may or may not do.
type right struct {
	who             [sha256.Size]byte
	name            string // of the caller
	verb, what      string // resource, or resource/subresource
	namespace, item string
	outOfTurn       bool
}

// access is what the API server said of a right.
type access struct {
	allowed bool
	reason  string
}

// Authorize asks with the caller's own credential whether he may create
// pods/portforward, which is what Kubernetes 1.35 and later want for every way
// to forward a port. A permission is remembered for Config.AccessTTL, for this
// caller and this pod.
func (k *Kube) Authorize(ctx context.Context, who relay.Identity, t relay.Target) error {
	c, err := caller(who)
	if err != nil {
		return err
	}
	if err := checkTarget(t); err != nil {
		return err
	}
	got, err := k.ask(ctx, c, right{
		who: c.key, name: who.Name, verb: "create", what: "pods/portforward", namespace: t.Namespace, item: t.Pod,
		outOfTurn: outOfTurn(ctx),
	}, &authorizationv1.ResourceAttributes{
		Verb: "create", Version: "v1", Resource: "pods", Subresource: "portforward", Namespace: t.Namespace, Name: t.Pod,
	})
	if err != nil || got.allowed {
		return err
	}
	return denied(who.Name, t, got.reason)
}

// denied says it as kube-apiserver would.
func denied(user string, t relay.Target, reason string) error {
	text := fmt.Sprintf("pods %q is forbidden: User %q cannot create resource %q in API group %q in the namespace %q",
		t.Pod, user, "pods/portforward", "", t.Namespace)
	if reason != "" {
		text += ": " + clip(reason)
	}
	return &stream.Error{Code: stream.Forbidden, Text: text}
}

// Group is the API group in which rights about the relay itself are. There are no
// objects in it: roles name them, and the relay asks.
const Group = "culvert.dev"

// Oversees tells whether the caller may see or end what others do: to list nodes is
// a right of the cluster, to list and to delete relays/streams are those of Group.
func (k *Kube) Oversees(ctx context.Context, who relay.Identity, what relay.Oversight) (bool, error) {
	c, err := caller(who)
	if err != nil {
		return false, err
	}
	asked := &authorizationv1.ResourceAttributes{Verb: "list", Version: "v1", Resource: "nodes"}
	switch what {
	case relay.SeeNodes:
	case relay.SeeStreams:
		asked = &authorizationv1.ResourceAttributes{Verb: "list", Group: Group, Version: "v1", Resource: "relays", Subresource: "streams"}
	case relay.StopStreams:
		asked = &authorizationv1.ResourceAttributes{Verb: "delete", Group: Group, Version: "v1", Resource: "relays", Subresource: "streams"}
	default:
		return false, nil
	}
	got, err := k.ask(ctx, c, right{who: c.key, name: who.Name, verb: asked.Verb, what: asked.Resource + "/" + asked.Subresource}, asked)
	return err == nil && got.allowed, err
}

func (k *Kube) ask(ctx context.Context, c *credential, r right, what *authorizationv1.ResourceAttributes) (access, error) {
	got, err := k.rights.get(ctx, r, func(ctx context.Context) (access, time.Duration, error) {
		if err := k.turnOf(ctx, c); err != nil {
			return access{}, 0, err
		}
		answer, err := k.calls.selfSubjectAccessReview(ctx, c, what)
		if err != nil {
			return access{}, 0, err
		}
		s := &answer.Status
		got := access{allowed: s.Allowed && !s.Denied, reason: s.Reason}
		if got.allowed {
			return access{allowed: true}, k.cfg.AccessTTL, nil
		}
		return got, k.cfg.DenialTTL, nil
	})
	if stream.CodeOf(err) == stream.Unauthenticated {
		k.names.drop(c.key)
	}
	if err != nil {
		return access{}, fmt.Errorf("ask what %s may: %w", r.name, err)
	}
	return got, nil
}

// turnOf waits until it is the caller's turn.
func (k *Kube) turnOf(ctx context.Context, c *credential) error {
	if outOfTurn(ctx) {
		return nil
	}
	of, _ := k.shares.get(c.key, true)
	return turn(ctx, of.Limiter, tooMany)
}

// caller returns the credential of somebody.
func caller(who relay.Identity) (*credential, error) {
	c, err := credentialOf(who)
	if err == nil && c.nobody() {
		err = errNobody()
	}
	return c, err
}

func errNobody() error {
	return &stream.Error{Code: stream.Unauthenticated, Text: "no credential came that the relay can use: log in with a token (certificates end at the relay, unless it runs with --impersonate)"}
}

// checkTarget refuses names that no pod can have before they get into a URL.
func checkTarget(t relay.Target) error {
	if len(validation.IsDNS1123Label(t.Namespace)) > 0 || !isName(t.Pod) {
		return &stream.Error{Code: stream.PodNotFound, Text: fmt.Sprintf("pods %q not found: no namespace or no pod can have this name", clip(t.Pod))}
	}
	return nil
}

// isName tells whether s may be the name of a pod or of a node.
func isName(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }
