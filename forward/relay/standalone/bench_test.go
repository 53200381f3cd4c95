package standalone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"path/filepath"
	"testing"
)

func BenchmarkNodes(b *testing.B) {
	s, err := Open(Config{Dir: filepath.Join(b.TempDir(), "state")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	request := func(i int) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: fmt.Sprintf("node-%d", i)}}, key)
		if err != nil {
			b.Fatal(err)
		}
		return der
	}
	chain, _, err := s.IssueNode(request(0))
	if err != nil {
		b.Fatal(err)
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		b.Fatal(err)
	}
	next := 1
	b.Run("issue", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			der := request(next)
			next++
			b.StartTimer()
			if _, _, err := s.IssueNode(der); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.VerifyNode(cert); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("token", func(b *testing.B) {
		for b.Loop() {
			s.CheckJoinToken("culvert-join-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
		}
	})
}
