package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"testing"
)

func TestAuthority(t *testing.T) {
	ca, err := New("test")
	if err != nil {
		t.Fatal(err)
	}
	relay, err := ca.Server([]string{"relay"}, net.IPv4(127, 0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	relay.Certificate = append(relay.Certificate, ca.Certificate.Certificate...)
	if err := Write(cert, key, relay); err != nil {
		t.Fatal(err)
	}
	read, err := tls.LoadX509KeyPair(cert, key)
	if err != nil || len(read.Certificate) != 2 {
		t.Fatalf("%d certificates, %v", len(read.Certificate), err)
	}
	for _, name := range []string{"relay", "127.0.0.1"} {
		if _, err := read.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	ann, err := ca.Person("ann", "devs")
	if err != nil {
		t.Fatal(err)
	}
	as := x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := ann.Leaf.Verify(as); err != nil || ann.Leaf.Subject.CommonName != "ann" || ann.Leaf.Subject.Organization[0] != "devs" {
		t.Errorf("%v, %v", err, ann.Leaf.Subject)
	}
	other, err := New("test")
	if err != nil {
		t.Fatal(err)
	}
	as.Roots = other.Pool()
	if _, err := ann.Leaf.Verify(as); err == nil {
		t.Error("another authority knows her")
	}
}
