package identity

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// What a relay with an HTTP door lets in beside agents and clients, and that these
// are asked for what they always were.
func TestHTTPDoor(t *testing.T) {
	agents, clients, web := newPKI(t, nil), newPKI(t, nil), newPKI(t, nil)
	relay := agents.server("relay.test")
	h2 := []string{"h2", "http/1.1"}
	proxy, user, node := web.peer("front-proxy", "system:masters"), clients.peer("alice"), agents.peer("node-1", OrgNodes)
	over := web.leaf(func(c *x509.Certificate) { asPeer("bob")(c); c.NotAfter = epoch.Add(-1) })
	pool := func(p *pki) func() *x509.CertPool {
		if p == nil {
			return nil
		}
		return p.pool
	}
	for name, c := range map[string]struct {
		off    bool
		web    *pki
		protos []string
		cert   *tls.Certificate
		want   string // part of the server's error
		alpn   string
		shown  string
	}{
		"both":                     {protos: h2, alpn: "h2"},
		"one":                      {protos: h2[1:], alpn: "http/1.1"},
		"none":                     {protos: nil, alpn: ""},
		"none asked for":           {protos: h2, cert: proxy, alpn: "h2"},
		"certificate":              {web: web, protos: h2, cert: proxy, alpn: "h2", shown: "front-proxy"},
		"certificate, no protocol": {web: web, cert: proxy, shown: "front-proxy"},
		"asked for and none there": {web: web, protos: h2, alpn: "h2"},
		"certificate is over":      {web: web, protos: h2, cert: over, want: "expired"},
		"user of the other door":   {web: web, protos: h2, cert: user, want: "unknown authority"},
		"node":                     {web: web, protos: h2, cert: node, want: "unknown authority"},
		"proxy as a client":        {web: web, protos: []string{stream.ALPNClient}, cert: proxy, want: "unknown authority"},
		"user among others":        {web: web, protos: []string{"h2", stream.ALPNClient}, cert: user, alpn: stream.ALPNClient, shown: "alice"},
		"both of ours":             {protos: []string{"h2", stream.ALPNClient, stream.ALPNAgent}, want: "at once"},
		"another protocol":         {protos: []string{"h3"}, want: "unsupported application protocols"},
		"off":                      {off: true, protos: h2, want: "unsupported application protocols"},
		"off, no protocol":         {off: true, web: web, want: "no application protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := ServerTLS(ServerConfig{
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return relay, nil },
				AgentCAs:       pool(agents), ClientCAs: pool(clients), HTTP: !c.off, HTTPClientCAs: pool(c.web),
				Now: (&clock{epoch}).now,
			})
			if err != nil {
				t.Fatal(err)
			}
			client := &tls.Config{RootCAs: agents.pool(), ServerName: "relay.test", NextProtos: c.protos, Time: (&clock{epoch}).now}
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if c.cert == nil {
					return &tls.Certificate{}, nil
				}
				return c.cert, nil
			}
			o := handshake(t, client, server)
			if c.want != "" {
				if o.server == nil || !strings.Contains(o.server.Error(), c.want) || o.client == nil {
					t.Fatalf("client: %v, server: %v, want %q", o.client, o.server, c.want)
				}
				return
			}
			if o.client != nil || o.server != nil {
				t.Fatalf("client: %v, server: %v", o.client, o.server)
			}
			shown := ""
			if len(o.state.VerifiedChains) > 0 {
				shown = o.state.VerifiedChains[0][0].Subject.CommonName
			}
			if shown != c.shown || o.state.NegotiatedProtocol != c.alpn || o.state.Version != tls.VersionTLS13 {
				t.Fatalf("certificate of %q over %q", shown, o.state.NegotiatedProtocol)
			}
		})
	}
}
