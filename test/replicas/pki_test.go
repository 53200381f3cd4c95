//go:build linux

package replicas

import (
	"crypto/tls"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	authority "github.com/culvert-k8s/culvert/test/pki"
)

// pki is an authority that all relays, agents and clients trust, in a directory.
type pki struct {
	t   *testing.T
	dir string
	ca  *authority.Authority
}

func newPKI(t *testing.T, dir string) *pki {
	t.Helper()
	ca, err := authority.New("test")
	p := &pki{t: t, dir: dir, ca: ca}
	p.keep("ca", ca.Certificate, err)
	return p
}

// keep writes a certificate and its key to name.pem and name.key.
func (p *pki) keep(name string, c tls.Certificate, err error) {
	p.t.Helper()
	if err == nil {
		err = authority.Write(p.file(name+".pem"), p.file(name+".key"), c)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// server makes the certificate of all relays.
func (p *pki) server(names []string, addrs []netip.Addr) {
	p.t.Helper()
	var ips []net.IP
	for _, a := range addrs {
		ips = append(ips, a.AsSlice())
	}
	c, err := p.ca.Server(names, ips...)
	p.keep("relay", c, err)
}

// person makes the certificate of a node or a user.
func (p *pki) person(name, organization string) {
	p.t.Helper()
	c, err := p.ca.Person(name, organization)
	p.keep(name, c, err)
}
