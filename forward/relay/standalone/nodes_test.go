package standalone

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func wantCode(t *testing.T, what string, err error, want stream.Code) {
	t.Helper()
	if got := stream.CodeOf(err); got != want {
		t.Fatalf("%s: code %v (%v), want %v", what, got, err, want)
	}
}

func TestNameIsTaken(t *testing.T) {
	b := newBed(t)
	mine, theirs := newKey(t), newKey(t)
	cert := b.join(t, mine, "node-1")
	_, _, err := b.IssueNode(csrFor(t, theirs, "node-1"))
	wantCode(t, "another key", err, stream.NameTaken)
	if !strings.Contains(err.Error(), "culvert-relay forget node-1") {
		t.Fatalf("error does not say what to do: %v", err)
	}
	again := b.join(t, mine, "node-1")
	if again.SerialNumber.Cmp(cert.SerialNumber) == 0 {
		t.Fatal("two certificates with one serial number")
	}
	for _, c := range []*x509.Certificate{cert, again} {
		if name, err := b.VerifyNode(c); name != "node-1" || err != nil {
			t.Fatal(name, err)
		}
	}
	// The key does not own the name for ever, and one key may serve two names.
	b.join(t, mine, "node-2")
	if nodes, err := b.Nodes(); err != nil || len(nodes) != 2 || nodes[0].Name != "node-1" ||
		nodes[0].Key != identity.PinOf(cert).String() || !nodes[0].Joined.Equal(epoch) {
		t.Fatalf("%+v, %v", nodes, err)
	}
	b.reopen(t)
	_, _, err = b.IssueNode(csrFor(t, theirs, "node-1"))
	wantCode(t, "another key after a restart", err, stream.NameTaken)
}

func TestForgetRevokes(t *testing.T) {
	b := newBed(t)
	old, next := newKey(t), newKey(t)
	cert := b.join(t, old, "node-1")
	if err := b.Forget("node-1"); err != nil {
		t.Fatal(err)
	}
	_, err := b.VerifyNode(cert)
	wantCode(t, "forgotten", err, stream.Unauthenticated)
	_, _, err = b.RenewNode(cert, csrFor(t, old, "node-1"))
	wantCode(t, "forgotten renews", err, stream.Unauthenticated)
	if err := b.Forget("node-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := b.Forget("../ca.pem"); err == nil || b.read(t, caFile) == "" {
		t.Fatal("forgot a file outside")
	}
	fresh := b.join(t, next, "node-1")
	if name, err := b.VerifyNode(fresh); name != "node-1" || err != nil {
		t.Fatal(name, err)
	}
	_, err = b.VerifyNode(cert)
	wantCode(t, "old key after the name went on", err, stream.Unauthenticated)
	// A session from before, with a certificate that is still in date, must not
	// take the name back from its new owner.
	_, _, err = b.RenewNode(cert, csrFor(t, old, "node-1"))
	wantCode(t, "old session renews", err, stream.Unauthenticated)
	if name, err := b.VerifyNode(fresh); name != "node-1" || err != nil {
		t.Fatal(name, err)
	}
}

// `forget` runs as another process, beside a relay that serves.
func TestForgetBesideRelay(t *testing.T) {
	b := newBed(t)
	key := newKey(t)
	cert := b.join(t, key, "node-1")
	if err := Forget(b.dir, "node-1"); err != nil {
		t.Fatal(err)
	}
	_, err := b.VerifyNode(cert)
	wantCode(t, "forgotten", err, stream.Unauthenticated)
	if err := Forget(b.dir, "node-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := Forget(b.path("none"), "node-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.path("none")); err == nil {
		t.Fatal("forget made a directory")
	}
	b.join(t, newKey(t), "node-1")
}

func TestRenew(t *testing.T) {
	b := newBed(t)
	key := newKey(t)
	first := b.join(t, key, "node-1")
	b.join(t, newKey(t), "node-2")
	b.clock.set(identity.RenewAt(first))
	chain, renewAt, err := b.RenewNode(first, csrFor(t, key, "node-1"))
	if err != nil {
		t.Fatal(err)
	}
	second := parse(t, chain[0])
	if !second.NotAfter.Equal(b.clock.now().Add(nodeLife)) || !renewAt.Equal(identity.RenewAt(second)) {
		t.Fatalf("renewed until %v", second.NotAfter)
	}
	_, _, err = b.RenewNode(second, csrFor(t, key, "node-2"))
	wantCode(t, "another node's name", err, stream.Forbidden)
	_, _, err = b.RenewNode(second, []byte("junk"))
	wantCode(t, "junk", err, stream.Malformed)

	b.clock.set(first.NotAfter.Add(time.Second))
	_, err = b.VerifyNode(first)
	wantCode(t, "over", err, stream.Unauthenticated)
	_, _, err = b.RenewNode(first, csrFor(t, key, "node-1"))
	wantCode(t, "over renews", err, stream.Unauthenticated)
	if _, err := b.VerifyNode(second); err != nil {
		t.Fatal(err)
	}
	// Whoever slept through it joins again with the key it has.
	if _, err := b.VerifyNode(b.join(t, key, "node-1")); err != nil {
		t.Fatal(err)
	}
}

func TestRenewWithNewKey(t *testing.T) {
	b := newBed(t)
	old, next := newKey(t), newKey(t)
	first := b.join(t, old, "node-1")
	chain, _, err := b.RenewNode(first, csrFor(t, next, "node-1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.VerifyNode(parse(t, chain[0])); err != nil {
		t.Fatal(err)
	}
	_, err = b.VerifyNode(first)
	wantCode(t, "old key", err, stream.Unauthenticated)
	_, _, err = b.IssueNode(csrFor(t, old, "node-1"))
	wantCode(t, "old key joins", err, stream.NameTaken)
	nodes, err := b.Nodes()
	if err != nil || len(nodes) != 1 || !nodes[0].Joined.Equal(epoch) {
		t.Fatalf("%+v, %v", nodes, err)
	}
}

func TestVerifyNodeRefuses(t *testing.T) {
	b, other := newBed(t), newBed(t)
	key := newKey(t)
	b.join(t, key, "node-1")
	forge := func(change func(*x509.Certificate)) *x509.Certificate {
		t.Helper()
		template := &x509.Certificate{
			Subject:   pkix.Name{CommonName: "node-1", Organization: []string{identity.OrgNodes}},
			NotBefore: epoch, NotAfter: epoch.Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		change(template)
		cert, err := b.ca.Sign(template, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	if _, err := b.VerifyNode(forge(func(*x509.Certificate) {})); err != nil {
		t.Fatal("the template itself is refused: ", err)
	}
	for name, cert := range map[string]*x509.Certificate{
		"nil":               nil,
		"another relay's":   other.join(t, key, "node-1"),
		"authority":         b.ca.Cert,
		"serving":           b.serve(t).Leaf,
		"a user's":          forge(func(c *x509.Certificate) { c.Subject.Organization = []string{"dev"} }),
		"for servers":       forge(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"a name not known":  forge(func(c *x509.Certificate) { c.Subject.CommonName = "node-9" }),
		"a path for a name": forge(func(c *x509.Certificate) { c.Subject.CommonName = "../nodes/node-1" }),
		"not yet good":      forge(func(c *x509.Certificate) { c.NotBefore = epoch.Add(time.Minute) }),
		"no longer good":    forge(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = epoch.Add(-day), epoch.Add(-time.Second) }),
	} {
		got, err := b.VerifyNode(cert)
		if got != "" {
			t.Errorf("%s: name %q", name, got)
		}
		wantCode(t, name, err, stream.Unauthenticated)
	}
}

// One name, many keys at once: exactly one gets it, and it is the one whose
// certificate is recognized.
func TestOneNameManyKeys(t *testing.T) {
	b := newBed(t)
	requests := make([][]byte, 32)
	for i := range requests {
		requests[i] = csrFor(t, newKey(t), "node-1")
	}
	var wg sync.WaitGroup
	var won atomic.Int32
	for _, request := range requests {
		wg.Go(func() {
			chain, _, err := b.IssueNode(request)
			if err != nil {
				if stream.CodeOf(err) != stream.NameTaken {
					t.Error(err)
				}
				return
			}
			won.Add(1)
			cert, err := x509.ParseCertificate(chain[0])
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := b.VerifyNode(cert); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d winners", won.Load())
	}
}

// Joins, renewals and forgets of one name at once, two of the three as another
// process would do them: at the end the record and the last word agree.
func TestForgetAgainstRenew(t *testing.T) {
	b := newBed(t)
	for range 20 {
		key, next := newKey(t), newKey(t)
		cert := b.join(t, key, "node-1")
		request := csrFor(t, next, "node-1")
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _, err := b.RenewNode(cert, request)
			if code := stream.CodeOf(err); code != stream.OK && code != stream.Unauthenticated {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := Forget(b.dir, "node-1"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if nodes, err := b.Nodes(); err != nil || len(nodes) != 0 {
			t.Fatalf("a renewal brought the node back: %v, %v", nodes, err)
		}
	}
}
