package standalone

import (
	"crypto/tls"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func (b *bed) serve(t *testing.T) *tls.Certificate {
	t.Helper()
	cert, err := b.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestServingCertificate(t *testing.T) {
	b := newBed(t, "Relay.Example.com.:7443", "10.0.0.1", "[fd00::1]:443", "relay.example.com", "[fd00::2]")
	cert := b.serve(t)
	want := []string{"10.0.0.1", "127.0.0.1", "::1", "fd00::1", "fd00::2", "localhost", "relay.example.com"}
	if got := authority.HostsOf(cert.Leaf); !slices.Equal(got, want) {
		t.Fatalf("names %v, want %v", got, want)
	}
	if len(cert.Certificate) != 2 || !slices.Equal(cert.Certificate[1], b.ca.Cert.Raw) {
		t.Fatal("chain does not end with the authority")
	}
	if !cert.Leaf.NotAfter.Equal(epoch.Add(authority.ServingLife)) || cert.Leaf.IsCA {
		t.Fatalf("leaf: %+v", cert.Leaf)
	}
}

func TestServingCertificateRenewal(t *testing.T) {
	b := newBed(t)
	first := b.serve(t)
	b.clock.set(identity.RenewAt(first.Leaf).Add(-time.Second))
	if b.serve(t) != first {
		t.Fatal("replaced too early")
	}
	b.clock.add(time.Second)
	second := b.serve(t)
	if second == first || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) || b.serve(t) != second {
		t.Fatal("not replaced, or more than once")
	}
	b.reopen(t)
	if got := b.serve(t); !slices.Equal(got.Certificate[0], second.Certificate[0]) {
		t.Fatal("restart replaced a good certificate")
	}
	b.reopen(t, "relay.test")
	third := b.serve(t)
	if third.Leaf.VerifyHostname("relay.test") != nil {
		t.Fatal("new name is not in the certificate")
	}
	b.reopen(t)
	if b.serve(t).Leaf.VerifyHostname("relay.test") == nil {
		t.Fatal("old name is still in the certificate")
	}
}

// A clock that was ahead for a while must not leave a certificate that nobody takes
// for years.
func TestServingCertificateOfAClockAhead(t *testing.T) {
	b := newBed(t)
	first := b.serve(t)
	b.clock.add(authority.ServingLife)
	ahead := b.serve(t)
	b.clock.add(-authority.ServingLife)
	now := b.serve(t)
	if ahead == first || now == ahead || b.clock.now().Before(now.Leaf.NotBefore) {
		t.Errorf("the clock says %s, the certificate begins %s", b.clock.now(), now.Leaf.NotBefore)
	}
	b.clock.add(authority.ServingLife)
	b.serve(t)
	b.clock.add(-authority.ServingLife)
	b.reopen(t)
	if got := b.serve(t); b.clock.now().Before(got.Leaf.NotBefore) {
		t.Errorf("after a restart the clock says %s, the certificate begins %s", b.clock.now(), got.Leaf.NotBefore)
	}
}

func TestServingCertificateDamaged(t *testing.T) {
	b, other := newBed(t), newBed(t)
	b.serve(t)
	other.serve(t)
	for name, content := range map[string]string{"junk": "junk", "of another authority": other.read(t, servingFile)} {
		put(t, b.path(servingFile), content)
		b.reopen(t)
		if b.serve(t).Leaf.CheckSignatureFrom(b.ca.Cert) != nil || b.read(t, servingFile) == content {
			t.Fatalf("%s: served as it is", name)
		}
	}
	if !strings.Contains(b.reports.String(), servingFile) {
		t.Fatalf("reports: %q", b.reports)
	}
}

// A disk that refuses does not stop the relay from serving.
func TestServingCertificateCannotBeKept(t *testing.T) {
	b := newBed(t)
	if err := os.Mkdir(b.path(servingFile), 0o700); err != nil {
		t.Fatal(err)
	}
	cert := b.serve(t)
	if b.serve(t) != cert || !strings.Contains(b.reports.String(), "keep serving certificate") {
		t.Fatalf("reports: %q", b.reports)
	}
}

// The relay's certificate, the pin and a node's certificate in real handshakes.
func TestHandshakes(t *testing.T) {
	b, other := newBed(t, "relay.test"), newBed(t)
	b.clock.set(epoch.Add(time.Minute))
	server, err := identity.ServerTLS(identity.ServerConfig{
		GetCertificate: b.GetCertificate, AgentCAs: b.CAPool, ClientCAs: b.CAPool, Now: b.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	store := &identity.AgentStore{Dir: b.path("agent"), Now: b.clock.now}
	id, err := store.Open("node-1", b.Pin(), "")
	if err != nil {
		t.Fatal(err)
	}
	dial := func(change func(*identity.ClientConfig)) (tls.ConnectionState, error) {
		t.Helper()
		cfg := identity.ClientConfig{ServerName: "relay.test", CAPin: b.Pin(), ALPN: stream.ALPNAgent,
			Certificate: id.Certificate, Now: b.clock.now}
		if change != nil {
			change(&cfg)
		}
		client, err := identity.ClientTLS(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return shake(t, client, server)
	}
	if state, err := dial(nil); err != nil || len(state.PeerCertificates) != 0 {
		t.Fatal("joining by pin alone: ", err)
	}
	request, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	chain, renewAt, err := b.IssueNode(request)
	if err != nil || id.Save(chain) != nil || !id.RenewAt().Equal(renewAt) {
		t.Fatal(err)
	}
	state, err := dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := b.VerifyNode(state.PeerCertificates[0]); name != "node-1" || err != nil {
		t.Fatal(name, err)
	}
	for name, change := range map[string]func(*identity.ClientConfig){
		"node as client":  func(c *identity.ClientConfig) { c.ALPN = stream.ALPNClient },
		"wrong pin":       func(c *identity.ClientConfig) { c.CAPin = other.Pin() },
		"wrong name":      func(c *identity.ClientConfig) { c.ServerName = "other.test" },
		"serving as node": func(c *identity.ClientConfig) { c.Certificate = func() *tls.Certificate { return b.serve(t) } },
	} {
		if _, err := dial(change); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	// The serving certificate is renewed under the agents' feet.
	b.clock.set(renewAt)
	if id.Status() != identity.CertDue {
		t.Fatal(id.Status())
	}
	b.clock.set(epoch.Add(300 * day))
	if state, err = dial(nil); err != nil || len(state.PeerCertificates) != 0 {
		t.Fatal("after the node's certificate is over: ", err)
	}
}
