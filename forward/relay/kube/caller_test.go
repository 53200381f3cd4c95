package kube

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"maps"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Who a request is from, out of all that it can bring along.
func TestWhoSentARequest(t *testing.T) {
	users, fronts, strangers := newAuthority(t, "users"), newAuthority(t, "fronts"), newAuthority(t, "strangers")
	below := users.below("a department")
	over, _ := users.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "ann"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	}, users)
	serving, _ := users.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "ann"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, users)
	full := Config{
		Impersonate: true, ClientCA: users.pool, RequestHeaderCA: fronts.pool, RequestHeaderNames: []string{"proxy"},
	}
	remote := http.Header{
		"X-Remote-User": {"bob"}, "X-Remote-Group": {"dev", "ops"}, "X-Remote-Uid": {"7"}, "X-Remote-Extra-Example.com%2fscope": {"a", "b"},
	}
	with := func(more http.Header) http.Header {
		h := remote.Clone()
		maps.Copy(h, more)
		return h
	}
	ann := http.Header{"Impersonate-User": {"ann"}}
	bob := http.Header{
		"Impersonate-User": {"bob"}, "Impersonate-Group": {"dev", "ops"}, "Impersonate-Uid": {"7"}, "Impersonate-Extra-Example.com%2fscope": {"a", "b"},
	}
	token := http.Header{"Authorization": {"Bearer tok"}}
	browser := func(encoded string) http.Header {
		return http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Protocol": {"v4.channel.k8s.io, " + bearerProtocol + encoded}}
	}
	tests := map[string]struct {
		cfg   Config
		chain []*x509.Certificate
		sent  http.Header
		lent  bool
		want  http.Header // of the credential
		code  stream.Code
	}{
		"nothing":                   {want: http.Header{}},
		"token":                     {sent: token, want: token},
		"token, odd case":           {sent: http.Header{"Authorization": {" bearer tok more"}}, want: token},
		"token, as somebody":        {sent: http.Header{"Authorization": {"Bearer tok"}, "Impersonate-User": {"eve"}}, want: http.Header{"Authorization": {"Bearer tok"}, "Impersonate-User": {"eve"}}},
		"no one, as somebody":       {sent: http.Header{"Impersonate-User": {"eve"}}, want: http.Header{}},
		"password":                  {sent: http.Header{"Authorization": {"Basic dG9rOnRvaw=="}}, want: http.Header{}},
		"empty token":               {sent: http.Header{"Authorization": {"Bearer "}}, want: http.Header{}},
		"token with a line":         {sent: http.Header{"Authorization": {"Bearer a\x7fb"}}, want: http.Header{}},
		"browser":                   {sent: browser(base64.RawURLEncoding.EncodeToString([]byte("tok"))), want: token},
		"browser, not a token":      {sent: browser(base64.RawURLEncoding.EncodeToString([]byte("to\nk"))), want: http.Header{}},
		"browser, not base64":       {sent: browser("!!"), want: http.Header{}},
		"certificate":               {cfg: full, chain: []*x509.Certificate{users.client("ann")}, lent: true, want: ann},
		"certificate with groups":   {cfg: full, chain: []*x509.Certificate{users.client("ann", "dev")}, lent: true, want: http.Header{"Impersonate-User": {"ann"}, "Impersonate-Group": {"dev"}}},
		"certificate by another":    {cfg: full, chain: []*x509.Certificate{below.client("ann"), below.cert}, lent: true, want: ann},
		"certificate and token":     {cfg: full, chain: []*x509.Certificate{users.client("ann")}, sent: token, lent: true, want: ann},
		"certificate, not allowed":  {chain: []*x509.Certificate{users.client("ann")}, sent: token, want: token},
		"certificate, switched off": {cfg: Config{ClientCA: users.pool}, chain: []*x509.Certificate{users.client("ann")}, want: http.Header{}},
		"certificate, no authority": {
			cfg: Config{Impersonate: true, ClientCA: func() *x509.CertPool { return nil }}, chain: []*x509.Certificate{users.client("ann")}, want: http.Header{},
		},
		"certificate as somebody": {cfg: full, chain: []*x509.Certificate{users.client("ann")}, sent: http.Header{"Impersonate-Group": {"system:masters"}}, code: stream.Forbidden},
		// HTTP would drop the spaces on the way to the API server.
		"certificate, space before":    {cfg: full, chain: []*x509.Certificate{users.client(" ann")}, code: stream.Unauthenticated},
		"certificate, tab behind":      {cfg: full, chain: []*x509.Certificate{users.client("ann\t")}, code: stream.Unauthenticated},
		"certificate, lines":           {cfg: full, chain: []*x509.Certificate{users.client("ann\nbob")}, code: stream.Unauthenticated},
		"certificate, group of spaces": {cfg: full, chain: []*x509.Certificate{users.client("ann", "dev", " system:masters")}, code: stream.Unauthenticated},
		"certificate, empty group":     {cfg: full, chain: []*x509.Certificate{users.client("ann", "", "dev")}, lent: true, want: http.Header{"Impersonate-User": {"ann"}, "Impersonate-Group": {"dev"}}},
		"certificate, inner spaces":    {cfg: full, chain: []*x509.Certificate{users.client("ann of Ö")}, lent: true, want: http.Header{"Impersonate-User": {"ann of Ö"}}},
		"front proxy, space in HTTP/2": {cfg: full, chain: []*x509.Certificate{fronts.client("proxy")}, sent: http.Header{"X-Remote-User": {"bob"}, "X-Remote-Group": {"system:masters "}}, code: stream.Unauthenticated},
		"front proxy, space in extra":  {cfg: full, chain: []*x509.Certificate{fronts.client("proxy")}, sent: http.Header{"X-Remote-User": {"bob"}, "X-Remote-Extra-Scopes": {" all"}}, code: stream.Unauthenticated},
		"certificate of nobody":        {cfg: full, chain: []*x509.Certificate{users.client("")}, want: http.Header{}},
		"certificate is over":          {cfg: full, chain: []*x509.Certificate{over}, sent: token, want: token},
		"certificate of a server":      {cfg: full, chain: []*x509.Certificate{serving}, want: http.Header{}},
		"certificate of a stranger":    {cfg: full, chain: []*x509.Certificate{strangers.client("ann")}, want: http.Header{}},
		"too many certificates":        {cfg: full, chain: append([]*x509.Certificate{users.client("ann")}, make([]*x509.Certificate, maxChain)...), want: http.Header{}},
		"front proxy":                  {cfg: full, chain: []*x509.Certificate{fronts.client("proxy")}, sent: remote, lent: true, want: bob},
		"front proxy and token":        {cfg: full, chain: []*x509.Certificate{fronts.client("proxy")}, sent: with(token), lent: true, want: bob},
		"front proxy as somebody":      {cfg: full, chain: []*x509.Certificate{fronts.client("proxy")}, sent: with(ann), code: stream.Forbidden},
		"front proxy for nobody":       {cfg: full, chain: []*x509.Certificate{fronts.client("proxy")}, sent: token, want: token},
		"another front proxy":          {cfg: full, chain: []*x509.Certificate{fronts.client("other")}, sent: remote, want: http.Header{}},
		"a user as a front proxy":      {cfg: full, chain: []*x509.Certificate{users.client("proxy")}, sent: remote, lent: true, want: http.Header{"Impersonate-User": {"proxy"}}},
		"a stranger as a front":        {cfg: full, chain: []*x509.Certificate{strangers.client("proxy")}, sent: remote, want: http.Header{}},
		"a front proxy as a user":      {cfg: full, chain: []*x509.Certificate{fronts.client("ann")}, want: http.Header{}},
		"headers of anybody":           {cfg: full, sent: with(token), want: token},
		"front proxy, switched off":    {chain: []*x509.Certificate{fronts.client("proxy")}, sent: remote, want: http.Header{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := request(t, t.Context(), http.MethodGet, "https://relay.test/api", tt.sent)
			r.TLS = &tls.ConnectionState{PeerCertificates: tt.chain}
			who, err := (&Kube{cfg: tt.cfg}).Caller(r)
			if tt.code != stream.OK {
				if stream.CodeOf(err) != tt.code || who.Proof != nil {
					t.Errorf("%+v, %v, want %v", who, err, tt.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c, err := credentialOf(who)
			if err != nil {
				t.Fatal(err)
			}
			if c.lent != tt.lent || !reflect.DeepEqual(c.header, tt.want) {
				t.Errorf("lent %v, %v, want %v", c.lent, c.header, tt.want)
			}
			if who.Role != relay.RoleUser || who.Name != c.header.Get("Impersonate-User") && tt.lent || who.Name != "" && !tt.lent {
				t.Errorf("%+v", who)
			}
			if c.nobody() != (len(tt.want) == 0) {
				t.Error("nobody is somebody")
			}
		})
	}
	r := request(t, t.Context(), http.MethodGet, "https://relay.test/api", with(token))
	if who, err := (&Kube{cfg: full}).Caller(r); err != nil || who.Proof.(*credential).lent {
		t.Errorf("without TLS: %+v, %v", who, err)
	}
}

// The certificate is looked at for every request: connections outlive it.
func TestCertificateEndsWithTheSession(t *testing.T) {
	users := newAuthority(t, "users")
	k := newAnswers().ask(t, Config{Impersonate: true, ClientCA: users.pool})
	state := tls.ConnectionState{NegotiatedProtocol: stream.ALPNClient, PeerCertificates: []*x509.Certificate{users.client("ann", "dev")}}
	who, err := k.Callers().Authenticate(t.Context(), state, &stream.Hello{Credential: stream.CredentialTLS})
	if err != nil || who.Name != "ann" || who.Role != relay.RoleUser {
		t.Fatalf("%+v, %v", who, err)
	}
	who.Proof.(*credential).until = time.Now().Add(-time.Second)
	if err := k.Authorize(t.Context(), who, web()); stream.CodeOf(err) != stream.Unauthenticated {
		t.Errorf("%v", err)
	}
}
