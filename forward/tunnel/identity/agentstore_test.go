package identity

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

func openIdentity(t *testing.T, store *AgentStore, pin string) *AgentIdentity {
	t.Helper()
	id, err := store.Open("node-1", pin, "relay.test:7443")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// issue plays the relay: a certificate for the key and name of the request.
func issue(t *testing.T, ca *pki, id *AgentIdentity, change func(*x509.Certificate)) [][]byte {
	t.Helper()
	der, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != id.Node() {
		t.Fatalf("request: %v, %v", csr, err)
	}
	return ca.leafFor(id.key, func(c *x509.Certificate) {
		asPeer(csr.Subject.CommonName, OrgNodes)(c)
		if change != nil {
			change(c)
		}
	}).Certificate
}

func TestAgentIdentityLife(t *testing.T) {
	dir, c, ca := filepath.Join(t.TempDir(), "deep", "store"), &clock{epoch}, newPKI(t, nil)
	store := &AgentStore{Dir: dir, Now: c.now}
	id := openIdentity(t, store, ca.pin())
	if id.Status() != CertNone || id.Certificate() != nil || !id.RenewAt().IsZero() {
		t.Fatal("a new identity has a certificate")
	}
	if err := id.Save(issue(t, ca, id, nil)); err != nil {
		t.Fatal(err)
	}
	life := []struct {
		at   time.Duration // the certificate runs from -1 h to 89 h
		want CertStatus
	}{{0, CertFresh}, {59*time.Hour - time.Second, CertFresh}, {59 * time.Hour, CertDue}, {89 * time.Hour, CertDue}, {89*time.Hour + time.Second, CertExpired}}
	for _, l := range life {
		c.t = epoch.Add(l.at)
		if id.Status() != l.want || (id.Certificate() == nil) != (l.want == CertExpired) {
			t.Fatalf("after %v: %v", l.at, id.Status())
		}
	}
	c.t = epoch
	// Another process finds the same key and certificate.
	again := openIdentity(t, &AgentStore{Dir: dir, Now: c.now}, ca.pin())
	if !again.key.Equal(id.key) || again.Status() != CertFresh || !again.RenewAt().Equal(epoch.Add(59*time.Hour)) {
		t.Fatalf("reopened: %v", again.Status())
	}
	// It works in a handshake.
	tc := clientTLS(t, ClientConfig{CAPin: ca.pin(), Certificate: again.Certificate})
	o := handshake(t, tc, serverTLS(t, ca.server("relay.test"), ca, nil))
	if o.client != nil || o.state.PeerCertificates[0].Subject.CommonName != "node-1" || o.state.NegotiatedProtocol != stream.ALPNAgent {
		t.Fatal(o.client, o.server)
	}
	for range 2 {
		if err := id.Discard(); err != nil || id.Status() != CertNone {
			t.Fatal(err)
		}
	}
	if third := openIdentity(t, &AgentStore{Dir: dir}, ca.pin()); !third.key.Equal(id.key) || third.Status() != CertNone {
		t.Fatal("discard lost the key or kept the certificate")
	}
}

func TestAgentIdentitySaveRefuses(t *testing.T) {
	c, ca, other := &clock{epoch}, newPKI(t, nil), newPKI(t, nil)
	id := openIdentity(t, &AgentStore{Dir: filepath.Join(t.TempDir(), "store"), Now: c.now}, ca.pin())
	good := issue(t, ca, id, nil)
	if err := id.Save(good); err != nil {
		t.Fatal(err)
	}
	long := [][]byte{good[0]}
	for range maxChain {
		long = append(long, good[1])
	}
	cases := map[string][][]byte{
		"nothing":         nil,
		"junk":            {[]byte("junk")},
		"long":            long,
		"another key":     ca.peer("node-1", OrgNodes).Certificate,
		"another name":    issue(t, ca, id, func(c *x509.Certificate) { c.Subject.CommonName = "node-2" }),
		"a user's":        issue(t, ca, id, func(c *x509.Certificate) { c.Subject.Organization = nil }),
		"over":            issue(t, ca, id, func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) }),
		"no authority":    good[:1],
		"other authority": issue(t, other, id, nil),
		"borrowed":        append(issue(t, other, id, nil), ca.cert.Raw),
		"for servers": issue(t, ca, id, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}),
	}
	for name, chain := range cases {
		if err := id.Save(chain); err == nil {
			t.Errorf("%s saved", name)
		}
		if cert := id.Certificate(); cert == nil || string(cert.Certificate[0]) != string(good[0]) {
			t.Fatalf("%s replaced the good certificate", name)
		}
	}
}

func TestAgentStoreNamesRelays(t *testing.T) {
	ca, other := newPKI(t, nil), newPKI(t, nil)
	store := &AgentStore{Dir: filepath.Join(t.TempDir(), "store")}
	one := openIdentity(t, store, ca.pin())
	two, err := store.Open("node-1", ca.pin(), "second.test:7443")
	if err != nil || two != one {
		t.Fatal("two addresses of one relay have two identities")
	}
	if third := openIdentity(t, store, other.pin()); third.key.Equal(one.key) {
		t.Fatal("two relays see one key")
	}
	byAddress := openIdentity(t, store, "")
	again, err := store.Open("node-1", "", "RELAY.test:7443")
	if err != nil || again != byAddress {
		t.Fatal("case of an address matters")
	}
	for _, c := range []struct{ node, pin, address string }{
		{"node-2", ca.pin(), ""}, {"Node", ca.pin(), ""}, {"node-1", "sha256:0", ""}, {"node-1", "", ""},
	} {
		if _, err := store.Open(c.node, c.pin, c.address); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
}

func TestAgentStoreRefusesDamage(t *testing.T) {
	ca := newPKI(t, nil)
	name, err := RelayDir(ca.pin(), "")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		damage func(t *testing.T, store, relay string)
		want   string
	}{
		{"key junk", func(t *testing.T, _, relay string) { put(t, relay, nodeKeyFile, []byte("junk")) }, "have the relay forget"},
		{"key empty", func(t *testing.T, _, relay string) { put(t, relay, nodeKeyFile, nil) }, "have the relay forget"},
		{"certificate junk", func(t *testing.T, _, relay string) { put(t, relay, nodeCertFile, []byte("junk")) }, "remove it and join again"},
		{"certificate of another", func(t *testing.T, _, relay string) {
			put(t, relay, nodeCertFile, certsPEM(ca.peer("node-1", OrgNodes).Certificate...))
		}, "another key"},
		{"key readable", func(t *testing.T, _, relay string) { chmod(t, filepath.Join(relay, nodeKeyFile), 0o644) }, "chmod 600"},
		{"directory open", func(t *testing.T, store, _ string) { chmod(t, store, 0o755) }, "chmod 700"},
		{"key a directory", func(t *testing.T, _, relay string) {
			path := filepath.Join(relay, nodeKeyFile)
			os.Remove(path)
			os.Mkdir(path, 0o700)
		}, "not a regular file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			openIdentity(t, &AgentStore{Dir: dir}, ca.pin())
			c.damage(t, dir, filepath.Join(dir, name))
			_, err := (&AgentStore{Dir: dir}).Open("node-1", ca.pin(), "")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// Two processes of one node that start at once end with one key.
func TestAgentStoreConcurrentFirstStart(t *testing.T) {
	dir, ca := filepath.Join(t.TempDir(), "store"), newPKI(t, nil)
	ids := make([]*AgentIdentity, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var err error
			if ids[i], err = (&AgentStore{Dir: dir}).Open("node-1", ca.pin(), ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, id := range ids {
		if !id.key.Equal(ids[0].key) {
			t.Fatal("two keys for one node")
		}
	}
}

func TestCertificateNilMeansNone(t *testing.T) {
	ca := newPKI(t, nil)
	tc := clientTLS(t, ClientConfig{CAPin: ca.pin(), Certificate: func() *tls.Certificate { return nil }})
	o := handshake(t, tc, serverTLS(t, ca.server("relay.test"), ca, ca))
	if o.client != nil || len(o.state.PeerCertificates) != 0 {
		t.Fatal(o.client, o.state.PeerCertificates)
	}
}
