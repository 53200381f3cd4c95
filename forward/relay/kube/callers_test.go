package kube

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// login authenticates as a client does.
func login(t *testing.T, k *Kube, token string) (relay.Identity, error) {
	t.Helper()
	return k.Callers().Authenticate(t.Context(), tls.ConnectionState{NegotiatedProtocol: stream.ALPNClient},
		&stream.Hello{Credential: stream.CredentialToken, Token: token})
}

func TestWhoIsACaller(t *testing.T) {
	a := newAnswers()
	a.users["anon"] = authenticationv1.UserInfo{Username: "system:anonymous"}
	a.users["empty"] = authenticationv1.UserInfo{}
	a.users["odd"] = authenticationv1.UserInfo{Username: "a\u202eb\n" + strings.Repeat("é", 300), Groups: make([]string, maxGroups)}
	a.users["many"] = authenticationv1.UserInfo{Username: "many", Groups: make([]string, maxGroups+1)}
	k := a.ask(t, Config{})
	if who, err := login(t, k, "tok"); err != nil || who.Name != "ann" || len(who.Groups) != 1 || who.Role != relay.RoleUser {
		t.Errorf("%+v, %v", who, err)
	}
	who, err := login(t, k, "odd")
	if err != nil || len(who.Name) > stream.MaxUser || !strings.HasPrefix(who.Name, "a?b?éé") || len(who.Groups) != maxGroups {
		t.Errorf("%q with %d groups, %v", who.Name, len(who.Groups), err)
	}
	if who.Exact != a.users["odd"].Username {
		t.Errorf("a policy would decide on %q", who.Exact)
	}
	if who, err := login(t, k, "many"); stream.CodeOf(err) != stream.Forbidden || who.Proof != nil {
		t.Errorf("groups were left out: %+v, %v", who, err)
	}
	if _, err := stream.AppendOpen(nil, &stream.Open{Kind: stream.KindForward, Namespace: "ns", Pod: "p", UID: "u", Port: 1, User: who.Name}); err != nil {
		t.Errorf("an agent would not hear of this user: %v", err)
	}
	for _, token := range []string{"wrong", "anon", "empty"} {
		if who, err := login(t, k, token); stream.CodeOf(err) != stream.Unauthenticated || who.Proof != nil {
			t.Errorf("%s: %+v, %v", token, who, err)
		}
	}
	for name, how := range map[string]struct {
		alpn string
		kind stream.CredentialKind
	}{
		"agent": {stream.ALPNAgent, stream.CredentialToken}, "join": {stream.ALPNClient, stream.CredentialJoin}, "tls": {stream.ALPNClient, stream.CredentialTLS},
	} {
		_, err := k.Callers().Authenticate(t.Context(), tls.ConnectionState{NegotiatedProtocol: how.alpn}, &stream.Hello{Credential: how.kind, Token: "tok"})
		if stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.Callers().(relay.Revalidator).Revalidate(t.Context(), relay.Identity{}); err != nil {
		t.Errorf("a session was ended: %v", err)
	}
}

// Nobody is passed on, and is nobody for everything else.
func TestNobody(t *testing.T) {
	a := newAnswers()
	k := a.ask(t, Config{})
	who, err := k.Caller(request(t, t.Context(), http.MethodGet, "https://relay.test/api", nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := k.Known(t.Context(), who)
	err2 := k.Authorize(t.Context(), who, web())
	_, err3 := k.Locate(t.Context(), who, web())
	_, err4 := k.Oversees(t.Context(), who, relay.SeeNodes)
	for i, err := range []error{err1, err2, err3, err4} {
		if stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("%d: %v", i, err)
		}
	}
	if len(a.asked) != 0 {
		t.Errorf("asked %v", a.asked)
	}
}

func TestCallersAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		k := a.ask(t, Config{})
		step := func(after time.Duration, token string, code stream.Code, asked int) {
			t.Helper()
			time.Sleep(after)
			_, err := login(t, k, token)
			if stream.CodeOf(err) != code || a.count("selfsubjectreviews") != asked {
				t.Errorf("%v, asked %d times, want %d", err, a.count("selfsubjectreviews"), asked)
			}
		}
		step(0, "tok", stream.OK, 1)
		step(10*time.Second-1, "tok", stream.OK, 1)
		step(1, "tok", stream.OK, 2)
		step(0, "wrong", stream.Unauthenticated, 3)
		step(2*time.Second-1, "wrong", stream.Unauthenticated, 3)
		a.set(func() { a.users["wrong"] = a.users["tok"] })
		step(1, "wrong", stream.OK, 4)
		a.set(func() { delete(a.users, "tok") })
		step(7*time.Second, "tok", stream.OK, 4)
		step(time.Second, "tok", stream.Unauthenticated, 5)
		a.set(func() { a.code = http.StatusNotFound })
		step(time.Minute, "wrong", stream.Unsupported, 6)
		a.set(func() { a.away = true })
		step(0, "wrong", stream.Unreachable, 7)
		step(0, "wrong", stream.Unreachable, 8)
		// What a stream finds out is known to the next session at once.
		a.set(func() { a.away, a.code, a.users["tok"] = false, 0, authenticationv1.UserInfo{Username: "ann"} })
		step(0, "tok", stream.OK, 9)
		a.set(func() { delete(a.users, "tok") })
		if err := k.Authorize(t.Context(), user("tok"), web()); stream.CodeOf(err) != stream.Unauthenticated {
			t.Errorf("%v", err)
		}
		step(0, "tok", stream.Unauthenticated, 10)
	})
}

// A crowd of wrong tokens does not keep out who was in a moment ago.
func TestStrangersTakeNobodysTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		k := a.ask(t, Config{})
		if _, err := login(t, k, "tok"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		crowded := 0
		for i := range 1000 {
			go func() { _, _ = login(t, k, fmt.Sprintf("wrong%d", i)) }()
		}
		synctest.Wait()
		began := time.Now()
		if _, err := login(t, k, "tok"); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if _, err := login(t, k, "new"); stream.CodeOf(err) == stream.Overloaded {
			crowded++
		}
		time.Sleep(time.Minute)
		if n := a.count("selfsubjectreviews"); n > 300 || crowded != 1 {
			t.Errorf("asked %d times, crowded %d", n, crowded)
		}
	})
}
