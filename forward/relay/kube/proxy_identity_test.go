package kube

import (
	"crypto/tls"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// whoIsThis are the headers of a request that say who sent it, or where from.
func whoIsThis(h http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range h {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") ||
			strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" || name == "Forwarded" {
			out[name] = strings.Join(values, "|")
		}
	}
	return out
}

type identityCase struct {
	name    string
	cert    string // of the client: user, "front-proxy", "stranger" or none
	headers []string
	want    map[string]string // at the API server; nil: never gets there
	status  int
}

var jane = map[string]string{"Authorization": "Bearer " + janesToken}

// as adds to what everybody has.
func as(base map[string]string, more ...string) map[string]string {
	out := map[string]string{"X-Forwarded-For": "127.0.0.1"}
	maps.Copy(out, base)
	for pair := range slices.Chunk(more, 2) {
		out[pair[0]] = pair[1]
	}
	return out
}

func identityCases() []identityCase {
	const bearerJane = "Authorization: Bearer " + janesToken
	alice := as(nil, "Authorization", "Bearer "+relaysToken, "Impersonate-User", "alice", "Impersonate-Group", "devs")
	return []identityCase{
		{"token", "", []string{bearerJane}, as(jane), 200},
		{"token, oddly written", "", []string{"authorization: bearer " + janesToken}, as(jane), 200},
		{"token as somebody", "", []string{bearerJane, "impersonate-user: bob", "Impersonate-Group: a", "Impersonate-Group: b", "Impersonate-Extra-Scopes: s", "Impersonate-Uid: 7"},
			as(jane, "Impersonate-User", "bob", "Impersonate-Group", "a|b", "Impersonate-Extra-Scopes", "s", "Impersonate-Uid", "7"), 200},
		{"token, claims of a front proxy", "", []string{bearerJane, "X-Remote-User: system:admin", "x-remote-group: system:masters", "X-Remote-Extra-Scopes: x", "X-Remote-Uid: 1"}, as(jane), 200},
		{"token, claims of an address", "", []string{bearerJane, "X-Forwarded-For: 10.1.1.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: h", "X-Forwarded-Uri: /", "X-Real-Ip: 10.1.1.1", "Forwarded: for=10.1.1.1"}, as(jane), 200},
		{"token, hides its address", "", []string{bearerJane, "Connection: X-Forwarded-For", "X-Forwarded-For: 10.1.1.1"}, as(jane), 200},
		{"token, drops impersonation", "", []string{bearerJane, "Impersonate-User: bob", "Connection: close, Impersonate-User"}, nil, 400},
		{"token, drops itself", "", []string{bearerJane, "Connection: Authorization"}, nil, 400},
		{"two tokens", "", []string{bearerJane, "Authorization: Bearer other"}, nil, 400},
		{"password", "", []string{"Authorization: Basic amFuZTpqYW5l"}, as(nil), 200},

		{"certificate", "alice", nil, alice, 200},
		{"certificate and token", "alice", []string{bearerJane}, alice, 200},
		{"certificate, claims of a front proxy", "alice", []string{"X-Remote-User: system:admin", "X-Remote-Group: system:masters"}, alice, 200},
		{"certificate as somebody", "alice", []string{"Impersonate-User: system:admin"}, nil, 403},
		{"certificate as somebody, with a token", "alice", []string{bearerJane, "Impersonate-User: system:admin"}, nil, 403},
		{"certificate as somebody, in small letters, twice", "alice", []string{"impersonate-user: a", "IMPERSONATE-USER: b"}, nil, 403},
		{"certificate in another group", "alice", []string{"Impersonate-Group: system:masters"}, nil, 403},
		{"certificate with another uid", "alice", []string{"Impersonate-Uid: 1"}, nil, 403},
		{"certificate with something extra", "alice", []string{"impersonate-extra-x: 1"}, nil, 403},
		{"certificate as nobody", "alice", []string{"Impersonate-User:"}, nil, 403},
		{"certificate, drops impersonation", "alice", []string{"Connection: Impersonate-User"}, nil, 400},
		{"certificate, drops groups", "alice", []string{"Connection: keep-alive", "connection: impersonate-group"}, nil, 400},
		{"certificate, drops the relay's token", "alice", []string{"Connection: Authorization"}, nil, 400},

		{"front proxy", "front-proxy", []string{"X-Remote-User: bob", "X-Remote-Group: a", "X-Remote-Group: b", "X-Remote-Extra-Scopes: s"},
			as(nil, "Authorization", "Bearer "+relaysToken, "Impersonate-User", "bob", "Impersonate-Group", "a|b", "Impersonate-Extra-Scopes", "s"), 200},
		{"front proxy, drops its user", "front-proxy", []string{"X-Remote-User: bob", "Connection: X-Remote-User"}, nil, 400},
		{"front proxy as somebody", "front-proxy", []string{"X-Remote-User: bob", "Impersonate-User: system:admin"}, nil, 403},

		{"nobody", "", nil, as(nil), 200},
		{"nobody, claims of a front proxy", "", []string{"X-Remote-User: system:admin"}, as(nil), 200},
		{"nobody as somebody", "", []string{"Impersonate-User: system:admin"}, nil, 403},
		{"stranger", "stranger", []string{"X-Remote-User: system:admin"}, as(nil), 200},
	}
}

// TestWhoGoesOut shows each kind of caller to the API server, with plain requests
// and with upgrades, and what an attacker would put beside.
func TestWhoGoesOut(t *testing.T) {
	strangers := newAuthority(t, "strangers")
	for _, upgrade := range []bool{false, true} {
		for _, tt := range identityCases() {
			name := tt.name
			if upgrade {
				name += ", upgrade"
			}
			t.Run(name, func(t *testing.T) {
				rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }})
				var certs []tls.Certificate
				switch tt.cert {
				case "":
				case "stranger":
					certs = append(certs, clientPair(strangers, "system:admin", "system:masters"))
				default:
					certs = append(certs, clientPair(rig.ca, tt.cert, "devs"))
				}
				request := []string{"GET /api/v1/namespaces/n/pods/p/exec?command=x HTTP/1.1", "Host: relay"}
				if upgrade {
					request = append(request, "Connection: Upgrade", "Upgrade: websocket")
				}
				c := rig.dial(certs...).send(append(request, tt.headers...)...)
				res := c.response()
				if res.StatusCode != tt.status {
					body, _ := io.ReadAll(res.Body)
					t.Errorf("status %d, want %d: %s", res.StatusCode, tt.status, body)
				}
				if tt.want == nil {
					if n := len(rig.requests("/")); n > 0 {
						t.Errorf("the API server saw %d requests", n)
					}
					return
				}
				got := whoIsThis(rig.only().Header)
				if len(got) != len(tt.want) {
					t.Errorf("got  %q\nwant %q", got, tt.want)
				}
				for name, want := range tt.want {
					if got[name] != want {
						t.Errorf("%s: %q, want %q", name, got[name], want)
					}
				}
			})
		}
	}
}

// What comes behind a body is no header, wherever it is announced.
func TestTrailersNameNobody(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if len(r.Trailer) > 0 || len(whoIsThis(r.Header)) != 4 { // two groups are one header
			t.Errorf("header %q, trailer %q", r.Header, r.Trailer)
		}
	}})
	c := rig.dial(clientPair(rig.ca, "alice", "devs")).send("POST /api HTTP/1.1", "Host: relay", "Transfer-Encoding: chunked", "Trailer: Impersonate-User, Impersonate-Uid")
	c.send("3\r\nabc\r\n0\r\nImpersonate-User: system:admin\r\nImpersonate-Uid: 1")
	if res := c.response(); res.StatusCode != http.StatusOK {
		t.Error(res.Status)
	}
}

// The relay's own rights are lent to callers that it names, and to nothing else,
// also where something before the last step went wrong.
func TestRelaysTokenNeedsAName(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(http.ResponseWriter, *http.Request) {}})
	for name, c := range map[string]*credential{
		"no credential":         nil,
		"lent without a name":   newCredential(http.Header{}, true),
		"lent to an empty name": newCredential(http.Header{"Impersonate-User": {""}}, true),
	} {
		for way, transport := range map[string]http.RoundTripper{"plain": rig.kube.pass, "upgrade": rig.kube.upgrade} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, rig.api.URL+"/api", nil)
			if err != nil {
				t.Fatal(err)
			}
			if c != nil {
				r = r.WithContext(withCredential(r.Context(), c))
			}
			if res, err := transport.RoundTrip(r); err == nil {
				res.Body.Close()
				t.Errorf("%s, %s: went out", name, way)
			}
		}
	}
	if n := len(rig.requests("/")); n > 0 {
		t.Errorf("the API server saw %d requests", n)
	}
}
