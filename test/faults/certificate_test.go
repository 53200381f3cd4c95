//go:build linux

package faults

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
	"github.com/culvert-k8s/culvert/test/pki"
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
	signer := pki.Authority{Certificate: *ca}
	made, err := signer.Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "relay"}, IPAddresses: c.hosts, NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	must(t, err)
	made.Certificate = append(made.Certificate, ca.Certificate[0])
	must(t, pki.Write(c.cert(), c.key(), made))
}

// stranger is an authority that nobody knows.
func stranger(t *testing.T) *tls.Certificate {
	t.Helper()
	ca, err := pki.New("somebody else")
	must(t, err)
	return &ca.Certificate
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
