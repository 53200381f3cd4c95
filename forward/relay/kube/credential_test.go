package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	testAPI  = "https://api.test:6443"
	relays   = "relay-token"
	testCall = testAPI + "/api/v1/namespaces/ns/pods/x"
)

// tokenFile writes the relay's own token.
func tokenFile(t *testing.T, token string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sent records what a RoundTripper lets out.
type sent struct{ got []*http.Request }

func (s *sent) RoundTrip(r *http.Request) (*http.Response, error) {
	s.got = append(s.got, r)
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
}

func request(t *testing.T, ctx context.Context, method, url string, h http.Header) *http.Request { //nolint:revive // the test comes first
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if h != nil {
		r.Header = h
	}
	return r
}

func mustLend(t *testing.T, p person) *credential {
	t.Helper()
	c, err := impersonated(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a client may send to be taken for somebody else.
func hostile() http.Header {
	return http.Header{
		"Authorization": {"Bearer stolen"}, "Impersonate-User": {"root"}, "Impersonate-Group": {"system:masters"},
		"Impersonate-Uid": {"0"}, "Impersonate-Extra-Scopes": {"all"}, "X-Remote-User": {"root"}, "X-Remote-Group": {"system:masters"},
		"X-Remote-Extra-A": {"b"}, "X-Remote-Uid": {"0"}, "Accept": {"application/json"}, "User-Agent": {"kubectl"},
	}
}

func TestWhatGoesToTheAPI(t *testing.T) {
	as := http.Header{"Impersonate-User": {"jane"}, "Impersonate-Group": {"a", "b"}, "X-Other": {"no"}}
	tests := map[string]struct {
		who  *credential
		want http.Header
	}{
		"token":     {bearer("tok", nil), http.Header{"Authorization": {"Bearer tok"}}},
		"token, as": {bearer("tok", as), http.Header{"Authorization": {"Bearer tok"}, "Impersonate-User": {"jane"}, "Impersonate-Group": {"a", "b"}}},
		"nobody":    {anonymous(), http.Header{}},
		"lent": {mustLend(t, person{name: "ann", uid: "7", groups: []string{"dev", "ops"}, extra: map[string][]string{"example.com/a b": {"x", "y"}}}), http.Header{
			"Authorization": {"Bearer " + relays}, "Impersonate-User": {"ann"}, "Impersonate-Uid": {"7"},
			"Impersonate-Group": {"dev", "ops"}, "Impersonate-Extra-Example.com%2fa%20b": {"x", "y"},
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for what, h := range map[string]http.Header{"plain": {"Accept": {"application/json"}, "User-Agent": {"kubectl"}}, "hostile": hostile()} {
				out := &sent{}
				rt := &asCaller{host: "api.test:6443", own: &ownToken{file: tokenFile(t, relays)}, next: out}
				in := request(t, withCredential(t.Context(), tt.who), http.MethodGet, testCall, h)
				before := in.Header.Clone()
				res, err := rt.RoundTrip(in)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				_ = res.Body.Close()
				want := tt.want.Clone()
				want["Accept"], want["User-Agent"] = []string{"application/json"}, []string{"kubectl"}
				if !reflect.DeepEqual(out.got[0].Header, want) {
					t.Errorf("%s: sent %v, want %v", what, out.got[0].Header, want)
				}
				if !reflect.DeepEqual(in.Header, before) {
					t.Errorf("%s: the caller's request was changed", what)
				}
			}
		})
	}
}

// The relay's own token never goes out for a caller without the caller's name,
// and nothing goes out when nobody said for whom.
func TestNothingGoesOutWithoutACaller(t *testing.T) {
	tests := map[string]struct {
		ctx func(context.Context) context.Context
		url string
	}{
		"no credential": {func(ctx context.Context) context.Context { return ctx }, testCall},
		"nil credential": {
			func(ctx context.Context) context.Context { return withCredential(ctx, nil) }, testCall,
		},
		"lent to no one": {
			func(ctx context.Context) context.Context {
				return withCredential(ctx, &credential{header: http.Header{}, lent: true})
			}, testCall,
		},
		"lent to groups only": {
			func(ctx context.Context) context.Context {
				return withCredential(ctx, &credential{header: http.Header{"Impersonate-Group": {"system:masters"}}, lent: true})
			}, testCall,
		},
		"another host": {
			func(ctx context.Context) context.Context { return withCredential(ctx, bearer("tok", nil)) }, "https://evil.test/api",
		},
		"in the clear": {
			func(ctx context.Context) context.Context { return withCredential(ctx, bearer("tok", nil)) }, "http://api.test:6443/api",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out := &sent{}
			rt := &asCaller{host: "api.test:6443", own: &ownToken{file: tokenFile(t, relays)}, next: out}
			_, err := rt.RoundTrip(request(t, tt.ctx(t.Context()), http.MethodGet, tt.url, nil)) //nolint:bodyclose // there is no response
			if err == nil || len(out.got) != 0 {
				t.Errorf("sent %d requests, %v", len(out.got), err)
			}
		})
	}
	if _, err := impersonated(person{groups: []string{"system:masters"}}); stream.CodeOf(err) != stream.Unauthenticated {
		t.Errorf("impersonation of no one: %v", err)
	}
}

func TestTheRelayItselfOnlyReviewsTokens(t *testing.T) {
	review := testAPI + "/apis/authentication.k8s.io/v1/tokenreviews"
	tests := map[string]struct {
		method, url string
		caller      bool
		want        bool
	}{
		"review":          {http.MethodPost, review, false, true},
		"for a caller":    {http.MethodPost, review, true, false},
		"get":             {http.MethodGet, review, false, false},
		"pods":            {http.MethodGet, testCall, false, false},
		"access review":   {http.MethodPost, testAPI + "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", false, false},
		"below":           {http.MethodPost, review + "/x", false, false},
		"another host":    {http.MethodPost, "https://evil.test/apis/authentication.k8s.io/v1/tokenreviews", false, false},
		"without secrecy": {http.MethodPost, "http://api.test:6443/apis/authentication.k8s.io/v1/tokenreviews", false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out := &sent{}
			rt := &asRelay{host: "api.test:6443", own: &ownToken{file: tokenFile(t, relays)}, next: out}
			ctx := t.Context()
			if tt.caller {
				ctx = withCredential(ctx, bearer("tok", nil))
			}
			res, err := rt.RoundTrip(request(t, ctx, tt.method, tt.url, hostile()))
			if err == nil {
				_ = res.Body.Close()
			}
			if (err == nil) != tt.want || (len(out.got) == 1) != tt.want {
				t.Fatalf("sent %d requests, %v", len(out.got), err)
			}
			if want := (http.Header{"Authorization": {"Bearer " + relays}, "Accept": {"application/json"}, "User-Agent": {"kubectl"}}); tt.want && !reflect.DeepEqual(out.got[0].Header, want) {
				t.Errorf("sent %v", out.got[0].Header)
			}
		})
	}
}

func TestCredentialsDiffer(t *testing.T) {
	seen := make(map[[32]byte]string)
	for name, c := range map[string]*credential{
		"nobody": anonymous(), "a": bearer("a", nil), "b": bearer("b", nil),
		"a as b":                              bearer("a", http.Header{"Impersonate-User": {"b"}}),
		"a as b of c":                         bearer("a", http.Header{"Impersonate-User": {"b"}, "Impersonate-Group": {"c"}}),
		"a as b of c with a uid":              bearer("a", http.Header{"Impersonate-User": {"b"}, "Impersonate-Group": {"c"}, "Impersonate-Uid": {"1"}}),
		"a as b of groups that are called so": bearer("a", http.Header{"Impersonate-User": {"b"}, "Impersonate-Group": {"c", "Impersonate-Uid", "1"}}),
		"a as b of c, d":                      bearer("a", http.Header{"Impersonate-User": {"b"}, "Impersonate-Group": {"c", "d"}}),
		"a as b of cd":                        bearer("a", http.Header{"Impersonate-User": {"b"}, "Impersonate-Group": {"cd"}}),
		"lent b":                              mustLend(t, person{name: "b"}),
		"lent b of c":                         mustLend(t, person{name: "b", groups: []string{"c"}}),
		"lent b, id c":                        mustLend(t, person{name: "b", uid: "c"}),
	} {
		if other, ok := seen[c.key]; ok {
			t.Errorf("%s and %s are remembered as one", name, other)
		}
		seen[c.key] = name
		if text := fmt.Sprintf("%v %+v %#v %s", c, relay.Identity{Proof: c}, c, slog.AnyValue(c)); strings.Contains(text, "Bearer") {
			t.Errorf("%s shows itself: %s", name, text)
		}
	}
	if one, again := bearer("a", nil), bearer("a", nil); one.key != again.key {
		t.Error("one credential is remembered as two")
	}
}

func TestCredentialOf(t *testing.T) {
	ended := mustLend(t, person{name: "ann", until: time.Now().Add(-time.Second)})
	for name, who := range map[string]relay.Identity{
		"none":             {Role: relay.RoleUser, Name: "ann"},
		"another's":        {Role: relay.RoleUser, Proof: &nodeProof{}},
		"nil":              {Role: relay.RoleUser, Proof: (*credential)(nil)},
		"of a node":        {Role: relay.RoleNode, Proof: bearer("tok", nil)},
		"certificate over": {Role: relay.RoleUser, Proof: ended},
	} {
		if _, err := credentialOf(who); stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok := mustLend(t, person{name: "ann", until: time.Now().Add(time.Hour)})
	if c, err := credentialOf(relay.Identity{Role: relay.RoleUser, Proof: ok}); c != ok || err != nil {
		t.Errorf("%v, %v", c, err)
	}
}

func TestOwnToken(t *testing.T) {
	file := tokenFile(t, "one")
	own := &ownToken{file: file}
	is := func(want string) {
		t.Helper()
		if got, err := own.get(); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	is("one")
	if err := os.WriteFile(file, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	is("one") // for a moment
	own.read = own.read.Add(-tokenMaxAge)
	is("two")
	for _, bad := range []string{"", "two words", "line\nbreak", strings.Repeat("x", maxToken)} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		own.read = own.read.Add(-tokenMaxAge)
		is("two") // what is there is no token
		if got, err := (&ownToken{file: file}).get(); err == nil {
			t.Errorf("%.20q is taken for a token: %.20q", bad, got)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	own.read = own.read.Add(-tokenMaxAge)
	is("two")
	for _, none := range []string{"", file} {
		_, err := (&ownToken{file: none}).get()
		if err == nil {
			t.Errorf("a token from %q", none)
		}
		if none != "" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	}
}

// An API server that has a path may have neighbours. What is lent to them is the
// relay's token, and they need not care for whom.
func TestNothingGoesOutBesideTheAPI(t *testing.T) {
	ann := mustLend(t, person{name: "ann"})
	for url, want := range map[string]bool{
		"/clusters/a/api":                 true,
		"/clusters/a":                     true,
		"/clusters/a/api/v1/../v1/pods":   true,
		"/clusters/a/..b/api":             true,
		"/clusters/ab/api":                false,
		"/clusters/a/../b/api":            false,
		"/clusters/a/%2e%2e/b/api":        false,
		"/clusters/a/api%2f..%2f../../b":  false,
		"/clusters/a//../../b":            false,
		"/clusters/a/../../clusters/a/ok": true,
	} {
		out := &sent{}
		rt := &asCaller{host: "api.test:6443", path: "/clusters/a/", own: &ownToken{file: tokenFile(t, relays)}, next: out}
		res, err := rt.RoundTrip(request(t, withCredential(t.Context(), ann), http.MethodGet, testAPI+url, nil))
		if err == nil {
			_ = res.Body.Close()
		}
		if (err == nil) != want || len(out.got) == 1 != want {
			t.Errorf("%s: sent %d requests, %v", url, len(out.got), err)
		}
	}
}
