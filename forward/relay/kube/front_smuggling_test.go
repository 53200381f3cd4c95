package kube

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// obliging is an API server at which jane may do everything and the pod n/web runs.
func obliging(w http.ResponseWriter, r *http.Request) {
	var answer any
	switch {
	case strings.HasSuffix(r.URL.Path, "/selfsubjectreviews"):
		answer = &authenticationv1.SelfSubjectReview{
			TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectReview", APIVersion: "authentication.k8s.io/v1"},
			Status:   authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: "jane"}},
		}
	case strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews"):
		answer = &authorizationv1.SelfSubjectAccessReview{
			TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectAccessReview", APIVersion: "authorization.k8s.io/v1"},
			Status:   authorizationv1.SubjectAccessReviewStatus{Allowed: true},
		}
	case strings.HasSuffix(r.URL.Path, "/pods/web"):
		p := pod("web", "uid-1", "node1")
		p.Namespace = "n"
		answer = p
	default:
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// What follows a port-forward that was refused, for whatever reason, is never read
// as a request: it may be the protocol that the client hoped for, and a proxy in
// between may think that the connection is not HTTP any more.
func TestNothingFollowsARefusedPortForward(t *testing.T) {
	const (
		path    = "/api/v1/namespaces/n/pods/web/portforward"
		auth    = "Authorization: Bearer " + janesToken
		up      = "Connection: Upgrade"
		spdy    = "Upgrade: SPDY/3.1"
		socket  = "Upgrade: websocket"
		version = "X-Stream-Protocol-Version: portforward.k8s.io"
		key     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
		next    = "GET /api/v1/secrets HTTP/1.1\r\nHost: r\r\n" + auth + "\r\n\r\n"
	)
	for name, request := range map[string][]string{
		"no protocol":            {"POST " + path, up, spdy},
		"unknown protocol":       {"POST " + path, up, spdy, "X-Stream-Protocol-Version: v9"},
		"two upgrades":           {"POST " + path, up, spdy + ", websocket", version},
		"two upgrades, apart":    {"POST " + path, up, spdy, socket, version},
		"h2c":                    {"GET " + path, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"},
		"a body":                 {"POST " + path, up, spdy, version, "Content-Length: 5"},
		"a body on GET":          {"GET " + path, up, socket, key, "Sec-WebSocket-Version: 13", "Content-Length: 5"},
		"a body without size":    {"POST " + path, up, spdy, version, "Transfer-Encoding: chunked"},
		"both lengths":           {"POST " + path, up, spdy, version, "Transfer-Encoding: chunked", "Content-Length: 0"},
		"upgrade unconnected":    {"POST " + path, spdy, version},
		"connection drops it":    {"POST " + path, "Connection: Upgrade, Authorization", spdy, version},
		"old websocket":          {"GET " + path, up, socket, key, "Sec-WebSocket-Version: 8"},
		"websocket without key":  {"GET " + path, up, socket, "Sec-WebSocket-Version: 13"},
		"websocket by POST":      {"POST " + path, up, socket, key, "Sec-WebSocket-Version: 13", "Content-Length: 0"},
		"unknown subprotocol":    {"GET " + path, up, socket, key, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: v9"},
		"channels without ports": {"GET " + path, up, socket, key, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: v4.channel.k8s.io"},
		"bad ports":              {"POST " + path + "?ports=0", up, spdy, version},
		"another method":         {"PUT " + path, up, spdy, version},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newFrontRig(t, rigConfig{api: obliging})
			c := rig.dial()
			lines := append([]string{request[0] + " HTTP/1.1", "Host: r", auth}, request[1:]...)
			if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"+next); err != nil {
				t.Fatal(err)
			}
			res := c.response()
			if res.StatusCode/100 != 4 || !res.Close {
				t.Errorf("%s, close %t", res.Status, res.Close)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			if rest, err := io.ReadAll(c.Reader); len(rest) > 0 {
				t.Errorf("the connection goes on with %q, %v", rest, err)
			}
			if n := len(rig.requests("/api/v1/secrets")); n > 0 {
				t.Error("the next request got through")
			}
		})
	}
}

// HTTP/2 has no upgrades. What asks for one there, or says with the words of HTTP/1
// how it is to be read, goes nowhere, and the next request is not touched by it.
func TestNoUpgradeOverHTTP2(t *testing.T) {
	plain := func(method, path string, more ...string) []string {
		return append([]string{":method", method, ":scheme", "https", ":authority", "r", ":path", path, "authorization", "Bearer " + janesToken}, more...)
	}
	const path = "/api/v1/namespaces/n/pods/web/portforward"
	for name, fields := range map[string][]string{
		"connection":          plain("GET", "/api", "connection", "upgrade", "upgrade", "websocket"),
		"upgrade alone":       plain("GET", "/api", "upgrade", "h2c"),
		"port-forward":        plain("POST", path, "connection", "upgrade", "upgrade", "SPDY/3.1", "x-stream-protocol-version", "portforward.k8s.io"),
		"keep-alive":          plain("GET", "/api", "keep-alive", "timeout=5"),
		"transfer-encoding":   plain("POST", "/api", "transfer-encoding", "chunked"),
		"te":                  plain("GET", "/api", "te", "gzip"),
		"line in a value":     plain("GET", "/api", "x-a", "b\r\nx-c: d"),
		"line in a path":      plain("GET", "/api HTTP/1.1\r\nHost: r\r\n\r\nGET /smuggled"),
		"two methods":         plain("GET", "/api", ":method", "POST"),
		"name in upper case":  plain("GET", "/api", "X-Upper", "y"),
		"CONNECT":             {":method", "CONNECT", ":authority", "10.0.0.1:443", "authorization", "Bearer " + janesToken},
		"CONNECT to a socket": plain("CONNECT", "/api", ":protocol", "websocket"),
	} {
		t.Run(name, func(t *testing.T) {
			rig := newFrontRig(t, rigConfig{api: obliging})
			c := rig.framed()
			if got := c.ask(fields); !strings.HasPrefix(got, "4") && got != "reset" && got != "hung up" {
				t.Errorf("answered with %s", got)
			}
			if n := len(rig.requests("/")); n > 0 {
				t.Errorf("the API server saw %d requests", n)
			}
			if got := rig.framed().ask(plain("GET", "/api")); got != "200" {
				t.Errorf("a good request is answered with %s", got)
			}
		})
	}
}

// Lengths that are not true, of a body that never comes, go no further.
func TestFalseLengthsOverHTTP2(t *testing.T) {
	rig := newFrontRig(t, rigConfig{plainAPI: true, api: obliging})
	got := rig.framed().ask([]string{
		":method", "POST", ":scheme", "https", ":authority", "r", ":path", "/api", "authorization", "Bearer " + janesToken,
		"content-length", "5", "content-length", "6",
	})
	seen := rig.requests("/")
	if len(seen) > 1 || got == "200" && (len(seen) != 1 || seen[0].ContentLength != 0 || len(seen[0].TransferEncoding) > 0) {
		t.Errorf("answered with %s, and the API server saw %+v", got, seen)
	}
}

// framedClient speaks HTTP/2 frame by frame.
type framedClient struct {
	*http2.Framer
	t     *testing.T
	block bytes.Buffer
	hpack *hpack.Encoder
}

func (r *frontRig) framed() *framedClient {
	r.t.Helper()
	conn, err := tls.Dial("tcp", r.relay.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patienceInTests))
	c := &framedClient{Framer: http2.NewFramer(conn, conn), t: r.t}
	c.hpack = hpack.NewEncoder(&c.block)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		r.t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// ask sends a request with these fields, names and values in turn, and returns the
// status of the answer, or how else it ended.
func (c *framedClient) ask(fields []string) string {
	c.t.Helper()
	for i := 0; i < len(fields); i += 2 {
		_ = c.hpack.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		c.t.Fatal(err)
	}
	for {
		f, err := c.ReadFrame()
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "hung up"
		}
		switch {
		case errors.Is(err, io.EOF):
			return "hung up"
		case err != nil:
			return fmt.Sprint(err)
		}
	}
}
