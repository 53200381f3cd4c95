package kube

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	upgradeWebSocket = "websocket"
	upgradeSPDY      = "SPDY/3.1"

	headerProtocols = "Sec-Websocket-Protocol"
)

// unambiguous refuses requests that two readers could understand in two ways, or
// that are not for an API server at all. The request it returns has the caller's
// token, if there is one, in Authorization and nowhere else.
func unambiguous(r *http.Request) (*http.Request, error) {
	switch {
	case r.Method == http.MethodConnect || r.URL.Opaque != "" || r.URL.User != nil || !strings.HasPrefix(r.URL.Path, "/"):
		return r, malformed("not a request for an API server")
	case len(r.Header[headerAuthorization]) > 1:
		return r, malformed("more than one Authorization header")
	}
	// What Connection names is for one hop only. A chain of proxies must not be
	// talked into dropping who somebody is.
	for name := range kubectl.Tokens(r.Header["Connection"]) {
		name = http.CanonicalHeaderKey(name)
		if name == headerAuthorization || strings.HasPrefix(name, headerImpersonate) || strings.HasPrefix(name, headerRemote) {
			return r, malformed("Connection names %s, which says who the caller is", name)
		}
	}
	return tokenFromSocket(r)
}

func malformed(format string, args ...any) error {
	return &stream.Error{Code: stream.Malformed, Text: fmt.Sprintf(format, args...)}
}

// upgradeOf returns the protocol that r asks to switch to, spelled as everybody
// does, or "" for a plain request. A request that asks for anything but one
// switch that the API server knows is an error: the connection behind it would
// carry what the relay cannot judge, such as h2c with further requests.
func upgradeOf(r *http.Request) (string, error) {
	asks := false
	for token := range kubectl.Tokens(r.Header["Connection"]) {
		asks = asks || strings.EqualFold(token, "Upgrade")
	}
	wanted := slices.Collect(kubectl.Tokens(r.Header["Upgrade"]))
	if !asks || len(wanted) == 0 {
		return "", nil // Upgrade without Connection means nothing, and goes no further
	}
	protocol := ""
	for _, known := range []string{upgradeWebSocket, upgradeSPDY} {
		if strings.EqualFold(wanted[0], known) {
			protocol = known
		}
	}
	switch {
	case len(wanted) > 1 || protocol == "":
		return "", malformed("upgrade to %.100q: only %s and %s are passed on, one at a time", strings.Join(wanted, ", "), upgradeWebSocket, upgradeSPDY)
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return "", malformed("upgrade over %s: it takes HTTP/1.1", r.Proto)
	case r.ContentLength != 0:
		return "", malformed("upgrade with a request body")
	}
	return protocol, nil
}

// tokenFromSocket moves a token from the protocols of a WebSocket, where the API
// server would look for it, to Authorization.
func tokenFromSocket(r *http.Request) (*http.Request, error) {
	found, encoded := false, ""
	var rest []string
	for protocol := range kubectl.Tokens(r.Header[headerProtocols]) {
		token, is := strings.CutPrefix(protocol, bearerProtocol)
		switch {
		case !is:
			rest = append(rest, protocol)
		case found:
			return r, malformed("more than one token in %s", headerProtocols)
		default:
			found, encoded = true, token
		}
	}
	if !found {
		return r, nil
	}
	token, err := base64.RawURLEncoding.DecodeString(encoded)
	switch {
	case err != nil || len(token) == 0:
		return r, malformed("the token in %s is empty or not base64url", headerProtocols)
	case len(r.Header[headerAuthorization]) > 0:
		return r, malformed("a token in Authorization and one in %s", headerProtocols)
	case rest == nil:
		return r, malformed("a token in %s and no protocol beside it", headerProtocols)
	}
	c := *r
	c.Header = r.Header.Clone()
	c.Header[headerProtocols] = []string{strings.Join(rest, ", ")}
	c.Header[headerAuthorization] = []string{"Bearer " + string(token)}
	return &c, nil
}
