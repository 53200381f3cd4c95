package standalone

import (
	"bytes"
	"crypto"
	"crypto/dsa" //nolint:staticcheck // a key that must be refused
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	all := make(map[string]crypto.Signer)
	for name, curve := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = key
	}
	for name, bits := range map[string]int{"RSA-1024": 1024, "RSA-2048": 2048} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = key
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all["Ed25519"] = key
	return all
}

func TestIssueNodeKeyTypes(t *testing.T) {
	b := newBed(t)
	good := map[string]bool{"P-256": true, "P-384": true, "Ed25519": true, "RSA-2048": true}
	for name, key := range keys(t) {
		node := "node-" + strings.ToLower(name)
		chain, _, err := b.IssueNode(csrFor(t, key, node))
		if (err == nil) != good[name] {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		// The record is for the key as it is in the certificate.
		if got, err := b.VerifyNode(parse(t, chain[0])); got != node || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if checkKey(&dsa.PublicKey{}) == nil {
		t.Error("DSA accepted")
	}
}

func TestIssueNodeRefusesRequest(t *testing.T) {
	b := newBed(t)
	key := newKey(t)
	good := csrFor(t, key, "node-1")
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	// The name is changed after signing, which is what a thief of a request does.
	renamed := bytes.Replace(good, []byte("node-1"), []byte("node-2"), 1)
	cn := asn1.ObjectIdentifier{2, 5, 4, 3}
	cases := map[string][]byte{
		"empty":          nil,
		"junk":           []byte("junk"),
		"certificate":    b.ca.Cert.Raw,
		"cut":            good[:len(good)-1],
		"trailing byte":  append(bytes.Clone(good), 0),
		"bad signature":  broken,
		"another's name": renamed,
		"no name":        csrFor(t, key, ""),
		"capitals":       csrFor(t, key, "Node-1"),
		"path":           csrFor(t, key, "../ca.pem"),
		"temporary":      csrFor(t, key, ".tmp-1"),
		"long name":      csrFor(t, key, strings.Repeat("a", 254)),
		"two names": csr(t, key, &x509.CertificateRequest{Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: cn, Value: "node-1"}, {Type: cn, Value: "node-2"}}}}),
		"too large": csr(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "node-1"},
			DNSNames: []string{strings.Repeat("a", maxCSR)}}),
	}
	for name, der := range cases {
		if _, _, err := b.IssueNode(der); stream.CodeOf(err) != stream.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	if nodes, err := b.Nodes(); len(nodes) != 0 || err != nil {
		t.Fatalf("refused requests left %v, %v", nodes, err)
	}
	if _, _, err := b.IssueNode(csrFor(t, key, strings.Repeat("a.", 126)+"a")); err != nil {
		t.Fatal("longest name: ", err)
	}
}

// Whatever a request asks for beside its key and name is not in the certificate.
func TestIssueNodeCopiesNothing(t *testing.T) {
	b := newBed(t)
	key := newKey(t)
	constraints, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	chain, renewAt, err := b.IssueNode(csr(t, key, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "node-1", Organization: []string{"system:masters", identity.OrgNodes}, OrganizationalUnit: []string{"x"},
			Country: []string{"XX"}, SerialNumber: "7"},
		DNSNames: []string{"relay.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, EmailAddresses: []string{"a@b"},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
			{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}},
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, chain[0])
	if got := cert.Subject.String(); got != "CN=node-1,O=culvert:nodes" {
		t.Errorf("subject %s", got)
	}
	if cert.IsCA || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses)+len(cert.URIs) != 0 {
		t.Errorf("authority %v, names %v %v", cert.IsCA, cert.DNSNames, cert.IPAddresses)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("uses %v %v", cert.ExtKeyUsage, cert.KeyUsage)
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 2, 3}) {
			t.Error("unknown extension copied")
		}
	}
	if !cert.NotBefore.Equal(epoch.Add(-nodeBackdate)) || !cert.NotAfter.Equal(epoch.Add(nodeLife)) {
		t.Errorf("from %v to %v", cert.NotBefore, cert.NotAfter)
	}
	if want := identity.RenewAt(cert); !renewAt.Equal(want) || cert.SerialNumber.BitLen() != 128 {
		t.Errorf("renew at %v, want %v; serial of %d bits", renewAt, want, cert.SerialNumber.BitLen())
	}
	if len(chain) != 2 || !bytes.Equal(chain[1], b.ca.Cert.Raw) {
		t.Error("chain does not end with the authority")
	}
}

func FuzzParseCSR(f *testing.F) {
	for _, key := range keys(f) {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "node-1"}}, key)
		if err == nil {
			f.Add(der)
		}
	}
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		req, err := parseCSR(der)
		if err != nil {
			if stream.CodeOf(err) != stream.Malformed {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if identity.CheckNodeName(req.name) != nil || checkKey(req.public) != nil || len(der) > maxCSR {
			t.Fatalf("accepted %+v", req)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"key":"sha256:` + strings.Repeat("0", 64) + `","joined":"2030-01-01T00:00:00Z"}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := parseRecord(b)
		if err == nil && rec.key == (identity.Pin{}) && !bytes.Contains(b, []byte(strings.Repeat("0", 64))) {
			t.Fatal("a record without a key")
		}
	})
}
