//go:build linux

package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// certificates gives the relay a serving certificate from files, which change
// under it.
type certificates struct {
	dir   string
	ca    *tls.Certificate // the relay's own authority
	hosts []net.IP
	on    bool
}

func (c *certificates) cert() string { return filepath.Join(c.dir, "tls.crt") }
func (c *certificates) key() string  { return filepath.Join(c.dir, "tls.key") }

// wrap has the relay take the files, once they are there.
func (c *certificates) wrap(host string, command lab.Command) lab.Command {
	if host == "relay" && c.on {
		command.Args = append(command.Args, "--tls-cert", c.cert(), "--tls-key", c.key())
	}
	return command
}

// take starts the relay anew with the files.
func (c *certificates) take(t *testing.T, r *rig) {
	t.Helper()
	c.dir = t.TempDir()
	file := r.Relay.StateFile("ca.pem") // key and certificate
	ca, err := tls.LoadX509KeyPair(file, file)
	must(t, err)
	c.ca, c.on = &ca, true
	c.hosts = []net.IP{net.IPv4(127, 0, 0, 1), r.Relay.Host.Addr().AsSlice()}
	c.write(t, c.ca, time.Now().Add(time.Hour))
	r.quiet(t)
	must(t, r.Relay.Stop(patience))
	must(t, r.Relay.Start(t.Context()))
	r.awaitService(t, r.flows(everybody))
	r.quiet(t)
	r.noteHoldings(t)
	r.load.Resume()
}

// write replaces the pair by one of that authority which ends at that time.
func (c *certificates) write(t *testing.T, ca *tls.Certificate, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "relay"}, IPAddresses: c.hosts,
		NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	must(t, err)
	c.files(t, key, der, ca.Certificate[0])
}

// files puts both files in their places at once, as nearly as that can be done.
func (c *certificates) files(t *testing.T, key *ecdsa.PrivateKey, chain ...[]byte) {
	t.Helper()
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(c.cert()+".new", text, 0o600))
	must(t, os.WriteFile(c.key()+".new", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	must(t, os.Rename(c.cert()+".new", c.cert()))
	must(t, os.Rename(c.key()+".new", c.key()))
}

// stranger is an authority that nobody knows.
func stranger(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "somebody else"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// seen is more than the time after which a relay looks at its files again.
const seen = 1500 * time.Millisecond

func (c *certificates) faults() []fault {
	good := func(t *testing.T, _ *rig) { c.write(t, c.ca, time.Now().Add(time.Hour)) }
	cut := func(r *rig) {
		time.Sleep(seen)
		r.links[near].CutReset()
		r.links["node1"].CutReset()
	}
	return []fault{
		{where: "relay's certificate", what: "rotated", lasts: longTime, begin: good, end: func(*testing.T, *rig) {}},
		{where: "relay's certificate", what: "rotated, and carriers reset", hits: nearOrNode1, begin: func(t *testing.T, r *rig) {
			good(t, r)
			cut(r)
		}},
		{where: "relay's certificate", what: "over, and nothing else", lasts: longTime, end: good, begin: func(t *testing.T, _ *rig) {
			c.write(t, c.ca, time.Now().Add(-time.Minute))
		}},
		{where: "relay's certificate", what: "over, and carriers reset", hits: nearOrNode1, lasts: longTime, end: good,
			says: `certificate has expired or is not yet valid.*; trying again$`, begin: func(t *testing.T, r *rig) {
				c.write(t, c.ca, time.Now().Add(-time.Minute))
				cut(r)
			}},
		{where: "relay's certificate", what: "of another authority, and carriers reset", hits: nearOrNode1, lasts: longTime, end: good,
			says: `; trying again$`, begin: func(t *testing.T, r *rig) {
				c.write(t, stranger(t), time.Now().Add(time.Minute))
				cut(r)
			}},
	}
}
