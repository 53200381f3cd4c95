package kube

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	remoteUser  = "X-Remote-User"
	remoteGroup = "X-Remote-Group"
	remoteUID   = "X-Remote-Uid"
	remoteExtra = "X-Remote-Extra-"

	// bearerProtocol is how browsers send a token with a WebSocket, as
	// kube-apiserver reads it: base64url without padding behind it.
	bearerProtocol = "base64url.bearer.authorization.k8s.io." //nolint:gosec // the name of a protocol
)

// maxChain bounds the certificates that are looked at to verify one. They are
// verified for each request, and TLS lets a peer send many.
const maxChain = 8

// Caller says who sent an HTTP request, without asking the API server. It takes
// what kube-apiserver would, in its order: a front proxy's headers, a client
// certificate, a bearer token in Authorization or in the subprotocols of a
// WebSocket. So a kubeconfig with both a certificate and a token is the same
// user here as there, if the relay takes the certificate at all; the token is
// then left out.
//
// Name is empty if only the API server knows it. Who shows nothing is nobody,
// whom Known refuses and who may still be passed on. A caller whom the relay
// vouches for cannot be somebody else as well: Impersonate-* is refused with
// Forbidden. With a token it is the API server's to allow, and goes along.
func (k *Kube) Caller(r *http.Request) (relay.Identity, error) {
	p, ok := k.fronted(r)
	if !ok && r.TLS != nil {
		p, ok = k.certified(r.TLS.PeerCertificates)
	}
	if !ok {
		c := anonymous()
		if token := bearerOf(r); token != "" {
			c = bearer(token, r.Header)
		}
		return relay.Identity{Role: relay.RoleUser, Proof: c}, nil
	}
	if asks(r.Header) {
		return relay.Identity{}, &stream.Error{
			Code: stream.Forbidden,
			Text: fmt.Sprintf("the relay acts for user %q already and cannot act for somebody else in his name: leave out --as, or use a token", clip(p.name)),
		}
	}
	c, err := impersonated(p)
	if err != nil {
		return relay.Identity{}, err
	}
	return relay.Identity{Role: relay.RoleUser, Name: printable(p.name), Groups: p.groups, Proof: c}, nil
}

// asks tells whether a request asks for impersonation.
func asks(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(http.CanonicalHeaderKey(name), headerImpersonate) {
			return true
		}
	}
	return false
}

// certified returns the user whom a certificate of Config.ClientCA names: the
// common name, and the organizations as groups.
func (k *Kube) certified(chain []*x509.Certificate) (person, bool) {
	leaf := verify(chain, k.cfg.ClientCA)
	if leaf == nil || leaf.Subject.CommonName == "" || !k.cfg.Impersonate {
		return person{}, false
	}
	return person{name: leaf.Subject.CommonName, groups: leaf.Subject.Organization, until: leaf.NotAfter}, true
}

// fronted returns the user whom a front proxy names. The headers count only on a
// connection that shows a certificate of Config.RequestHeaderCA with one of the
// names in Config.RequestHeaderNames: anybody can write headers.
func (k *Kube) fronted(r *http.Request) (person, bool) {
	user := r.Header.Get(remoteUser)
	if r.TLS == nil || !k.cfg.Impersonate || user == "" {
		return person{}, false
	}
	leaf := verify(r.TLS.PeerCertificates, k.cfg.RequestHeaderCA)
	if leaf == nil || !slices.Contains(k.cfg.RequestHeaderNames, leaf.Subject.CommonName) {
		return person{}, false
	}
	p := person{name: user, uid: r.Header.Get(remoteUID), groups: r.Header[remoteGroup], until: leaf.NotAfter}
	for name, values := range r.Header {
		if key, ok := strings.CutPrefix(name, remoteExtra); ok && key != "" {
			if p.extra == nil {
				p.extra = make(map[string][]string)
			}
			key = unescapeKey(strings.ToLower(key))
			p.extra[key] = append(p.extra[key], values...)
		}
	}
	return p, true
}

// unescapeKey undoes the percent-encoding of a key; what is none stays.
func unescapeKey(key string) string {
	if plain, err := url.PathUnescape(key); err == nil {
		return plain
	}
	return key
}

// verify returns the first certificate of the chain if the authorities stand
// behind it now. That TLS has verified it is not enough: it may have been for
// another authority, and a while ago.
func verify(chain []*x509.Certificate, cas func() *x509.CertPool) *x509.Certificate {
	if cas == nil || len(chain) == 0 || len(chain) > maxChain {
		return nil
	}
	pool := cas()
	if pool == nil { // to crypto/x509 that means the authorities of the whole world
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil
	}
	return chain[0]
}

// bearerOf returns the token of a request, empty if there is none.
func bearerOf(r *http.Request) string {
	kind, token, ok := strings.Cut(strings.TrimSpace(r.Header.Get(headerAuthorization)), " ")
	if ok && strings.EqualFold(kind, "bearer") {
		token, _, _ = strings.Cut(token, " ")
		if isToken(token) {
			return token
		}
		return ""
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return ""
	}
	for protocol := range kubectl.Tokens(r.Header[headerProtocols]) {
		encoded, ok := strings.CutPrefix(protocol, bearerProtocol)
		if !ok {
			continue
		}
		if token, err := base64.RawURLEncoding.DecodeString(encoded); err == nil && isToken(string(token)) {
			return string(token)
		}
		return ""
	}
	return ""
}
