package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// joiner returns the identity of an agent that trusts ca by its pin.
func joiner(t testing.TB, ca *authority) *Joined {
	t.Helper()
	return &Joined{
		Node: "node-1", Store: &identity.AgentStore{Dir: filepath.Join(t.TempDir(), "state")}, Trust: Trust{CAPin: ca.pin()},
		Token: func() (string, error) { return joinToken, nil },
	}
}

// askFor calls For as an agent does.
func askFor(t testing.TB, j *Joined, r *relay) (Credential, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return j.For(ctx, r.addr, (&keeper{agent: &Agent{}}).dialer)
}

// TestJoin gets a certificate once, and uses it from then on: by another agent
// process too, and without a token.
func TestJoin(t *testing.T) {
	r := startRelay(t, &relay{})
	j := joiner(t, r.ca)
	first := start(t, Config{Identity: j}, r)
	l := r.tunnel(t, 1)
	if l.cert == nil || l.cert.Subject.CommonName != "node-1" || l.reg.GetNode() != "node-1" {
		t.Errorf("the tunnel shows %v", l.cert)
	}
	first.stop()
	first.ended(t)
	again := &Joined{Node: j.Node, Store: &identity.AgentStore{Dir: j.Store.Dir}, Trust: j.Trust}
	start(t, Config{Identity: again}, r)
	if second := r.tunnel(t, 2); !second.cert.Equal(l.cert) || second.reg.GetInstance() == l.reg.GetInstance() {
		t.Error("the second process has another certificate, or the same instance")
	}
	if _, joined, renewed := r.counts(); joined != 1 || renewed != 0 {
		t.Errorf("joined %d times, renewed %d times", joined, renewed)
	}
}

// TestJoinTwoRelays has one authority: one certificate is asked for.
func TestJoinTwoRelays(t *testing.T) {
	a := startRelay(t, &relay{})
	b := startRelay(t, &relay{ca: a.ca})
	start(t, Config{Identity: joiner(t, a.ca)}, a, b)
	if !a.tunnel(t, 1).cert.Equal(b.tunnel(t, 1).cert) {
		t.Error("two certificates")
	}
	_, one, _ := a.counts()
	_, two, _ := b.counts()
	if one+two != 1 {
		t.Errorf("joined %d times at one relay, %d times at the other", one, two)
	}
}

// TestJoinRefused retries with words that say what to do, and joins when the
// trouble is over.
func TestJoinRefused(t *testing.T) {
	taken := startRelay(t, &relay{taken: true})
	good := startRelay(t, &relay{})
	noToken := joiner(t, good.ca)
	noToken.Token = nil
	late := joiner(t, good.ca)
	file := filepath.Join(t.TempDir(), "token")
	late.Token = func() (string, error) { return identity.LoadToken(file) }
	wrong := joiner(t, good.ca)
	wrong.Token = func() (string, error) { return "not-the-join-token", nil }
	for _, tt := range []struct {
		name  string
		relay *relay
		id    *Joined
		want  []string
	}{
		{"name taken", taken, joiner(t, taken.ca), []string{"taken by another key", "culvert-relay forget node-1", "set up anew", "another"}},
		{"no token", good, noToken, []string{"no certificate yet and no join token"}},
		{"token unreadable", good, late, []string{"read join token", file}},
		{"wrong token", good, wrong, []string{"does not take the join token", "who are you"}},
		{"wrong pin", good, joiner(t, taken.ca), []string{"no authority with the pin"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := askFor(t, tt.id, tt.relay)
			for _, want := range tt.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
		})
	}
	if n, _, _ := good.counts(); n != 0 {
		t.Errorf("%d sessions without a credential", n)
	}
	if err := os.WriteFile(file, []byte(joinToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := askFor(t, late, good); err != nil {
		t.Errorf("with the token there: %v", err)
	}
}

// TestRenew renews a certificate that is due over the tunnel that showed it. The
// tunnel stays, and the next one shows the new certificate.
func TestRenew(t *testing.T) {
	r := startRelay(t, &relay{life: 40 * time.Minute}) // 30 of them are over
	a := start(t, Config{Identity: joiner(t, r.ca)}, r)
	l := r.tunnel(t, 1)
	r.await(t, "the certificate is renewed", func() bool { return r.renewed == 1 })
	a.log.wait(t, "credential renewed", 1)
	if links, joined, _ := r.counts(); links != 2 || joined != 1 { // one session to join, one to stay
		t.Errorf("%d sessions, joined %d times", links, joined)
	}
	if l.sess.Err() != nil {
		t.Errorf("the tunnel ended: %v", l.sess.Err())
	}
	l.stop()
	if second := r.tunnel(t, 2); second.cert.Equal(l.cert) || !publicEqual(second.cert, l.cert) {
		t.Error("after a renewal the old certificate is shown, or another key")
	}
}

// TestRenewFails goes on with what it has, and says so.
func TestRenewFails(t *testing.T) {
	r := startRelay(t, &relay{life: 40 * time.Minute, frozen: true})
	a := start(t, Config{Identity: joiner(t, r.ca)}, r)
	l := r.tunnel(t, 1)
	if line := a.log.wait(t, "credential not renewed", 1)[0]; !strings.Contains(fmt.Sprint(line["err"]), "no renewals today") {
		t.Errorf("log: %v", line)
	}
	eventually(t, "the agent is ready", a.Ready)
	if l.sess.Err() != nil {
		t.Errorf("the tunnel ended: %v", l.sess.Err())
	}
}

// TestExpired joins again with the same key.
func TestExpired(t *testing.T) {
	r := startRelay(t, &relay{life: 30*time.Minute + time.Second})
	j := joiner(t, r.ca)
	if _, err := askFor(t, j, r); err != nil {
		t.Fatal(err)
	}
	j.Store = &identity.AgentStore{Dir: j.Store.Dir, Now: func() time.Time { return time.Now().Add(time.Minute) }}
	if _, err := askFor(t, j, r); err == nil || !strings.Contains(err.Error(), "it is") { // over again at once
		t.Errorf("join with a clock that is ahead: %v", err)
	}
	if _, joined, renewed := r.counts(); joined != 2 || renewed != 0 {
		t.Errorf("joined %d times, renewed %d times", joined, renewed)
	}
	j.Token = nil
	if _, err := askFor(t, j, r); err == nil || !strings.Contains(err.Error(), "certificate is over") {
		t.Errorf("without a token: %v", err)
	}
}

// TestForgotten lets the relay refuse a certificate that it gave: the agent joins
// anew, and the old certificate is not lost on the way.
func TestForgotten(t *testing.T) {
	ca := newAuthority(t)
	var mu sync.Mutex
	forgotten, closed := false, false
	r := startRelay(t, &relay{ca: ca, greet: func(cert *x509.Certificate, hello *stream.Hello) stream.Reply {
		mu.Lock()
		defer mu.Unlock()
		if cert != nil && forgotten {
			forgotten = false // it is known again with the next certificate
			return stream.Reply{Code: stream.Unauthenticated, Text: "node is not known"}
		}
		if hello.Credential == stream.CredentialJoin && closed {
			return stream.Reply{Code: stream.Unauthenticated, Text: "nobody may join"}
		}
		return welcome(cert, hello)
	}})
	set := func(f, c bool) { mu.Lock(); forgotten, closed = f, c; mu.Unlock() }
	a := start(t, Config{Identity: joiner(t, ca), MaxBackoff: 10 * time.Millisecond}, r)
	first := r.tunnel(t, 1)
	set(true, false)
	first.stop()
	second := r.tunnel(t, 2)
	if _, joined, _ := r.counts(); second.cert.Equal(first.cert) || joined != 2 {
		t.Errorf("joined %d times", joined)
	}
	if !publicEqual(first.cert, second.cert) {
		t.Error("joined with another key")
	}
	// Refused by mistake, while nobody can join.
	set(true, true)
	second.stop()
	if third := r.tunnel(t, 3); !third.cert.Equal(second.cert) {
		t.Error("the certificate was lost")
	}
	if !strings.Contains(a.log.String(), "does not take the join token") {
		t.Error("the failure to join is not in the log")
	}
}

func publicEqual(a, b *x509.Certificate) bool {
	return string(a.RawSubjectPublicKeyInfo) == string(b.RawSubjectPublicKeyInfo)
}

// TestRefusedInTLS shows a certificate that the relay's TLS does not take.
func TestRefusedInTLS(t *testing.T) {
	r := startRelay(t, &relay{})
	j := joiner(t, r.ca)
	if _, err := askFor(t, j, r); err != nil {
		t.Fatal(err)
	}
	r.ca.pool = x509.NewCertPool() // it has forgotten its own authority
	a := start(t, Config{Identity: j, MaxBackoff: 10 * time.Millisecond}, r)
	r.await(t, "it joins again", func() bool { return r.joined > 1 })
	if !strings.Contains(a.log.String(), "remote error: tls") {
		t.Error("the alert is not in the log")
	}
}

// TestCertificate uses files of somebody else's making, and says when they do not
// serve.
func TestCertificate(t *testing.T) {
	r := startRelay(t, &relay{})
	start(t, Config{}, r) // the default of start
	r.tunnel(t, 1)
	ca, cert, key := r.ca.files(t, "node-1")
	for _, tt := range []struct {
		name string
		id   Certificate
		addr string
		want string
	}{
		{"no certificate", Certificate{Trust: Trust{CAFile: ca}, CertFile: "/nonexistent", KeyFile: key}, r.addr, "/nonexistent"},
		{"no authority", Certificate{Trust: Trust{CAFile: "/nonexistent"}, CertFile: cert, KeyFile: key}, r.addr, "/nonexistent"},
		{"no trust", Certificate{CertFile: cert, KeyFile: key}, r.addr, "exactly one"},
		{"no port", Certificate{Trust: Trust{CAFile: ca}, CertFile: cert, KeyFile: key}, "relay", "relay address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.id.For(t.Context(), tt.addr, nil)
			if !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

// TestCAFile knows the authority by its file, and goes on while a second one is in
// it.
func TestCAFile(t *testing.T) {
	r := startRelay(t, &relay{})
	file, _, _ := r.ca.files(t, "node-1")
	other, _, _ := newAuthority(t).files(t, "node-1")
	j := joiner(t, r.ca)
	j.Trust = Trust{CAFile: file}
	if _, err := askFor(t, j, r); err != nil {
		t.Fatal(err)
	}
	one, _ := os.ReadFile(file)
	two, _ := os.ReadFile(other)
	if err := os.WriteFile(file, append(one, two...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := askFor(t, j, r); err != nil {
		t.Errorf("with two authorities in the file: %v", err)
	}
	if _, joined, _ := r.counts(); joined != 1 {
		t.Errorf("joined %d times", joined)
	}
}

// TestOneTurn lets one relay hang while another one is asked: the second waits no
// longer than its context.
func TestOneTurn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		j := &Joined{
			Node: "node-1", Store: &identity.AgentStore{Dir: filepath.Join(dir, "state")}, Trust: Trust{CAPin: "sha256:" + strings.Repeat("ab", 32)},
			Token: func() (string, error) { time.Sleep(time.Hour); return "", errors.New("too late") },
		}
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := j.For(t.Context(), "a:1", func(Credential) *connect.Dialer { return nil }); err == nil {
				t.Error("joined")
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := j.For(ctx, "b:1", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("second: %v", err)
		}
		all.Wait()
	})
}
