//go:build linux

package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

func TestCertificates(t *testing.T) {
	ca, err := newAuthority(t.TempDir(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.parent)
	addr := netip.MustParseAddr("10.64.0.1")
	server, err1 := ca.server("server", "s", []string{"kubernetes"}, addr)
	client, err2 := ca.client("client", "jane", "devs", "ops")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for _, tt := range []struct {
		name  string
		pair  keyPair
		usage x509.ExtKeyUsage
		host  string
	}{
		{"server by name", server, x509.ExtKeyUsageServerAuth, "kubernetes"},
		{"server by address", server, x509.ExtKeyUsageServerAuth, addr.String()},
		{"client", client, x509.ExtKeyUsageClientAuth, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pair, err := tls.LoadX509KeyPair(tt.pair.certFile, tt.pair.keyFile)
			if err != nil {
				t.Fatal(err)
			}
			options := x509.VerifyOptions{Roots: roots, DNSName: tt.host, KeyUsages: []x509.ExtKeyUsage{tt.usage}}
			if _, err := pair.Leaf.Verify(options); err != nil {
				t.Error(err)
			}
		})
	}
	pair, err := tls.X509KeyPair(client.cert, client.key)
	if err != nil {
		t.Fatal(err)
	}
	if s := pair.Leaf.Subject; s.CommonName != "jane" || len(s.Organization) != 2 {
		t.Errorf("subject %v", s)
	}
}

func TestKubeconfig(t *testing.T) {
	lab.RequireRoot(t)
	network := lab.ForTest(t, ControlHost)
	dir := t.TempDir()
	for _, sub := range []string{"pki", "kubeconfig"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := newAuthority(filepath.Join(dir, "pki"), "ca")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Network: network, dir: dir, ca: ca}
	path, err := c.UserKubeconfig("system:node:n/1", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Clusters []struct{ Cluster struct{ Server string } }
		Users    []struct{ User credential }
	}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	if config.Clusters[0].Cluster.Server != c.Server() {
		t.Errorf("server %q", config.Clusters[0].Cluster.Server)
	}
	if _, err := tls.X509KeyPair(config.Users[0].User.Cert, config.Users[0].User.Key); err != nil {
		t.Error(err)
	}
}
