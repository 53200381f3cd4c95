package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"net/textproto"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"k8s.io/client-go/transport"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	headerAuthorization = "Authorization"
	headerImpersonate   = "Impersonate-" // -User, -Group, -Uid, -Extra-*
	headerRemote        = "X-Remote-"    // of front proxies, likewise
)

var (
	errNoCredential = errors.New("request for a caller without a credential")
	errNotTheAPI    = errors.New("request leads away from the API server")
	errNotTheRelays = errors.New("the relay may not ask this in its own name")
)

// credential is what a caller's requests to the API server go with. It is the
// Proof of the Identity of a caller and is made by bearer, impersonated and
// anonymous only.
type credential struct {
	// header are Authorization and Impersonate-* as they are sent. Who uses the
	// relay's token has no Authorization here.
	header http.Header
	// lent tells that the relay's own token goes with it; header then always has
	// Impersonate-User.
	lent bool
	// key stands for all of the above where answers are remembered.
	key [sha256.Size]byte
	// user is the name and groups those the relay knows; of a token only the API
	// server knows them.
	user   string
	groups []string
	// until is when the proof ends, if the relay can tell. Zero: it cannot.
	until time.Time
}

// String hides the credential.
func (*credential) String() string { return "credential" }

// GoString hides the credential.
func (*credential) GoString() string { return "credential" }

// bearer is the caller's own token. as are the Impersonate-* headers the caller
// asked for himself: the API server judges whether the token allows them.
func bearer(token string, as http.Header) *credential {
	h := http.Header{headerAuthorization: {"Bearer " + token}}
	for name, values := range as {
		if strings.HasPrefix(name, headerImpersonate) {
			h[name] = slices.Clone(values)
		}
	}
	return newCredential(h, false)
}

// anonymous is nothing at all: what the API server shows to everybody.
func anonymous() *credential { return newCredential(http.Header{}, false) }

// person is somebody who proved to the relay who he is.
type person struct {
	name, uid string
	groups    []string
	extra     map[string][]string
	until     time.Time // when the proof ends
}

// impersonated is the relay's own token in the name of p.
func impersonated(p person) (*credential, error) {
	if p.name == "" {
		return nil, &stream.Error{Code: stream.Unauthenticated, Text: "the certificate names no user"}
	}
	p.groups = slices.DeleteFunc(slices.Clone(p.groups), func(g string) bool { return g == "" })
	if !p.survives() {
		return nil, &stream.Error{
			Code: stream.Unauthenticated,
			Text: "the name of the user, or of a group, begins or ends with a space or holds what cannot be passed on: get a certificate without",
		}
	}
	// client-go knows how to write extra keys; it is used for that alone.
	var h http.Header
	_, _ = transport.NewImpersonatingRoundTripper(transport.ImpersonationConfig{
		UserName: p.name, UID: p.uid, Groups: p.groups, Extra: p.extra,
	}, take(func(r *http.Request) { h = r.Header })).RoundTrip(&http.Request{Header: http.Header{}}) //nolint:bodyclose // there is no response
	c := newCredential(h, true)
	c.user, c.groups, c.until = p.name, p.groups, p.until
	return c, nil
}

// survives tells whether all that p says arrives as it is. HTTP/1.1 takes away
// spaces at the ends of a header, and so would make another user or group of one
// whom nobody has judged: " system:masters" is no group that anybody is kept from.
func (p *person) survives() bool {
	said := slices.Concat([]string{p.name, p.uid}, p.groups)
	for _, values := range p.extra {
		said = append(said, values...)
	}
	return !slices.ContainsFunc(said, func(s string) bool {
		return !httpguts.ValidHeaderFieldValue(s) || textproto.TrimString(s) != s
	})
}

// take is a RoundTripper that looks at a request and sends nothing.
type take func(*http.Request)

func (t take) RoundTrip(r *http.Request) (*http.Response, error) {
	t(r)
	return nil, errNotTheAPI
}

func newCredential(h http.Header, lent bool) *credential {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(h)) {
		// With the number of values: whoever is asked for may be called as a header is.
		_, _ = fmt.Fprintf(sum, "%d of ", len(h[name]))
		write(sum, name)
		for _, v := range h[name] {
			write(sum, v)
		}
	}
	_, _ = fmt.Fprintf(sum, "|%t", lent)
	c := &credential{header: h, lent: lent}
	sum.Sum(c.key[:0])
	return c
}

func write(sum hash.Hash, s string) { _, _ = fmt.Fprintf(sum, "%d:%s", len(s), s) }

// credentialOf returns what Caller or Authenticate has put into an Identity.
func credentialOf(who relay.Identity) (*credential, error) {
	c, ok := who.Proof.(*credential)
	if !ok || c == nil || who.Role != relay.RoleUser {
		return nil, &stream.Error{Code: stream.Unauthenticated, Text: "the relay has no credential of this caller: log in again"}
	}
	if !c.until.IsZero() && time.Now().After(c.until) {
		return nil, &stream.Error{Code: stream.Unauthenticated, Text: "the certificate ended at " + c.until.UTC().Format(time.RFC3339)}
	}
	return c, nil
}

// nobody tells whether the credential is none.
func (c *credential) nobody() bool { return len(c.header) == 0 && !c.lent }

type credentialKey struct{}

// withCredential says for whom the requests of a context are made.
func withCredential(ctx context.Context, c *credential) context.Context {
	return context.WithValue(ctx, credentialKey{}, c)
}

// asCaller sends requests with the credential of their context and with no
// other. It is the only way on which the relay's own token is lent to a caller.
type asCaller struct {
	host, path string // of the API server
	own        *ownToken
	next       http.RoundTripper
}

// RoundTrip refuses a request without a credential, or one that would carry the
// relay's token without the name of a caller.
func (t *asCaller) RoundTrip(r *http.Request) (*http.Response, error) {
	h, err := t.headers(r)
	if err != nil {
		return nil, drop(r, err)
	}
	return t.next.RoundTrip(withHeader(r, h))
}

func (t *asCaller) headers(r *http.Request) (http.Header, error) {
	c, _ := r.Context().Value(credentialKey{}).(*credential)
	switch {
	case r.URL.Scheme != "https" || r.URL.Host != t.host || !within(t.path, r.URL.Path):
		return nil, errNotTheAPI
	case c == nil || c.lent && c.header.Get(transport.ImpersonateUserHeader) == "":
		return nil, errNoCredential
	}
	h := withoutIdentity(r.Header)
	maps.Copy(h, c.header)
	if !c.lent {
		return h, nil
	}
	token, err := t.own.get()
	if err != nil {
		return nil, err
	}
	h[headerAuthorization] = []string{"Bearer " + token}
	return h, nil
}

// within tells whether p is below dir, whatever a server makes of dots in it: beside
// an API server that has a path there may be others, which know nothing of
// Impersonate-User.
func within(dir, p string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return dir == "" || strings.HasPrefix(path.Clean(p)+"/", path.Clean(dir)+"/")
}

// withoutIdentity copies h without anything that says who sends it.
func withoutIdentity(h http.Header) http.Header {
	out := make(http.Header, len(h)+2)
	for name, values := range h {
		canonical := http.CanonicalHeaderKey(name)
		if canonical == headerAuthorization || strings.HasPrefix(canonical, headerImpersonate) || strings.HasPrefix(canonical, headerRemote) {
			continue
		}
		out[name] = values
	}
	return out
}
