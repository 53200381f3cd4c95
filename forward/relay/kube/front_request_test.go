package kube

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// parse reads a request as the server does.
func parse(t *testing.T, lines ...string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Join(lines, "\r\n") + "\r\nHost: relay\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestUnambiguous(t *testing.T) {
	const get = "GET /api HTTP/1.1"
	token := bearerProtocol + base64.RawURLEncoding.EncodeToString([]byte("secret"))
	tests := map[string]struct {
		request []string
		refused string // part of the text
	}{
		"plain":                      {request: []string{get, "Authorization: Bearer x"}},
		"keep-alive":                 {request: []string{get, "Connection: keep-alive, close"}},
		"other hop-by-hop":           {request: []string{get, "Connection: X-Mine", "X-Mine: 1"}},
		"absolute form":              {request: []string{"GET https://elsewhere/api HTTP/1.1"}},
		"impersonation":              {request: []string{get, "Impersonate-User: jane"}},
		"opaque":                     {request: []string{"GET x:api HTTP/1.1"}, refused: "not a request"},
		"with a user":                {request: []string{"GET https://u:p@elsewhere/api HTTP/1.1"}, refused: "not a request"},
		"connect":                    {request: []string{"CONNECT 10.0.0.1:443 HTTP/1.1"}, refused: "not a request"},
		"asterisk":                   {request: []string{"OPTIONS * HTTP/1.1"}, refused: "not a request"},
		"two credentials":            {request: []string{get, "Authorization: Bearer x", "authorization: Bearer y"}, refused: "more than one"},
		"drops Impersonate-User":     {request: []string{get, "Connection: Impersonate-User"}, refused: "Impersonate-User"},
		"drops impersonate-group":    {request: []string{get, "Connection: close,  impersonate-group"}, refused: "Impersonate-Group"},
		"drops an extra":             {request: []string{get, "Connection: close", "Connection: IMPERSONATE-EXTRA-SCOPES"}, refused: "Impersonate-Extra-Scopes"},
		"drops Authorization":        {request: []string{get, "Connection: authorization"}, refused: "Authorization"},
		"drops X-Remote-User":        {request: []string{get, "Connection: x-remote-user"}, refused: "X-Remote-User"},
		"token in a socket":          {request: []string{get, "Sec-WebSocket-Protocol: v4.channel.k8s.io, " + token}},
		"two tokens in a socket":     {request: []string{get, "Sec-WebSocket-Protocol: v4.channel.k8s.io, " + token, "Sec-WebSocket-Protocol: " + token}, refused: "more than one token"},
		"nothing but a token":        {request: []string{get, "Sec-WebSocket-Protocol: " + token}, refused: "no protocol"},
		"no base64":                  {request: []string{get, "Sec-WebSocket-Protocol: a, " + bearerProtocol + "ä"}, refused: "base64url"},
		"a token in two places":      {request: []string{get, "Authorization: Bearer y", "Sec-WebSocket-Protocol: a, " + token}, refused: "a token in Authorization"},
		"an empty token in a socket": {request: []string{get, "Sec-WebSocket-Protocol: a, " + bearerProtocol}, refused: "empty"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := unambiguous(parse(t, tt.request...))
			if tt.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(name, "socket") && (r.Header.Get("Authorization") != "Bearer secret" ||
					r.Header.Get("Sec-WebSocket-Protocol") != "v4.channel.k8s.io") {
					t.Errorf("headers: %q", r.Header)
				}
				return
			}
			if stream.CodeOf(err) != stream.Malformed || !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("got %v, want %q", err, tt.refused)
			}
		})
	}
}

func TestUpgradeOf(t *testing.T) {
	const get, up = "GET /api HTTP/1.1", "Connection: Upgrade"
	tests := map[string]struct {
		request []string
		want    string // "" for none
		refused string
	}{
		"plain":                {request: []string{get}},
		"websocket":            {request: []string{get, up, "Upgrade: websocket"}, want: "websocket"},
		"WebSocket":            {request: []string{get, "connection: keep-alive, upGRADE", "Upgrade: WebSocket"}, want: "websocket"},
		"spdy":                 {request: []string{"POST /api HTTP/1.1", up, "Upgrade: spdy/3.1", "Content-Length: 0"}, want: "SPDY/3.1"},
		"only Connection":      {request: []string{get, up}},
		"only Upgrade":         {request: []string{get, "Upgrade: h2c"}},
		"h2c":                  {request: []string{get, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"}, refused: `"h2c"`},
		"TLS":                  {request: []string{get, up, "Upgrade: TLS/1.0"}, refused: "TLS/1.0"},
		"newer SPDY":           {request: []string{get, up, "Upgrade: SPDY/4"}, refused: "SPDY/4"},
		"two":                  {request: []string{get, up, "Upgrade: websocket, h2c"}, refused: "h2c"},
		"two, in two lines":    {request: []string{get, up, "Upgrade: websocket", "upgrade: h2c"}, refused: "h2c"},
		"the same twice":       {request: []string{get, up, "Upgrade: websocket, websocket"}, refused: "one at a time"},
		"HTTP/1.0":             {request: []string{"GET /api HTTP/1.0", up, "Upgrade: websocket"}, refused: "HTTP/1.0"},
		"with a body":          {request: []string{get, up, "Upgrade: websocket", "Content-Length: 4"}, refused: "body"},
		"with an unsized body": {request: []string{get, up, "Upgrade: websocket", "Transfer-Encoding: chunked"}, refused: "body"},
		"more than it seems":   {request: []string{get, up, "Upgrade: websocket\th2c"}, refused: "h2c"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := upgradeOf(parse(t, tt.request...))
			if tt.refused != "" {
				if stream.CodeOf(err) != stream.Malformed || !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("got %v, want %q", err, tt.refused)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// Whatever a request looks like, the one that goes on has at most one credential, in
// one place, and asks for at most one protocol that is known.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /api HTTP/1.1\r\nHost: relay\r\n\r\n",
		"GET /api HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v4.channel.k8s.io, " + bearerProtocol + "c2VjcmV0\r\n\r\n",
		"POST /api HTTP/1.1\r\nHost: relay\r\nConnection: upgrade, close\r\nUpgrade: SPDY/3.1\r\nAuthorization: Bearer x\r\n\r\n",
		"GET /api HTTP/1.1\r\nHost: relay\r\nConnection: Impersonate-User\r\nImpersonate-User: root\r\n\r\n",
		"GET /api HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
		"POST /api HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
		"CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: relay\r\n\r\n",
		"GET //api/v1/../v1/namespaces/a/pods/b/portforward HTTP/1.1\r\nHost: relay\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		r, err = unambiguous(r)
		if err != nil {
			return
		}
		if len(r.Header["Authorization"]) > 1 {
			t.Fatalf("%d credentials", len(r.Header["Authorization"]))
		}
		for p := range kubectl.Tokens(r.Header["Sec-Websocket-Protocol"]) {
			if strings.HasPrefix(p, bearerProtocol) {
				t.Fatal("a token is left among the protocols")
			}
		}
		for name := range kubectl.Tokens(r.Header["Connection"]) {
			name = http.CanonicalHeaderKey(name)
			if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
				t.Fatalf("Connection may drop %s", name)
			}
		}
		protocol, err := upgradeOf(r)
		if err == nil && protocol != "" && (protocol != "websocket" && protocol != "SPDY/3.1" || r.ContentLength != 0 || r.ProtoMajor != 1) {
			t.Fatalf("%s with %d bytes over %s", protocol, r.ContentLength, r.Proto)
		}
		target, is, err := portforwardTarget(r.URL)
		if is && err == nil && (strings.ContainsAny(target.Namespace+target.Pod, "/%") || target.Pod == "..") {
			t.Fatalf("%+v", target)
		}
	})
}
