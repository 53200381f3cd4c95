package kubectl

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestWriteStatus(t *testing.T) {
	w := httptest.NewRecorder()
	WriteStatus(w, httptest.NewRequest(http.MethodGet, "/", nil), 404, "NotFound", `pods "web" not found`)
	want := `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"web\" not found","reason":"NotFound","code":404}` + "\n"
	if got := w.Body.String(); got != want || w.Code != 404 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %v %s", w.Code, w.Header(), got)
	}
	w = httptest.NewRecorder()
	WriteStatus(w, httptest.NewRequest(http.MethodHead, "/", nil), 403, "Forbidden", "no")
	if w.Body.Len() > 0 || w.Code != 403 {
		t.Errorf("HEAD: %d %s", w.Code, w.Body)
	}
}

func TestParsePorts(t *testing.T) {
	tests := []struct {
		query string
		want  []uint16
		err   string
	}{
		{"", nil, ""},
		{"port=80", nil, ""},
		{"ports=80", []uint16{80}, ""},
		{"ports=7000,8000&ports=9000", []uint16{7000, 8000, 9000}, ""},
		{"ports=1&ports=65535", []uint16{1, 65535}, ""},
		{"ports=80&ports=80", []uint16{80, 80}, ""},
		{"ports=", nil, `query parameter "ports" cannot be empty`},
		{"ports=80,", nil, `unable to parse "80," as a port`},
		{"ports=abc", nil, `unable to parse "abc" as a port`},
		{"ports=-1", nil, `unable to parse "-1" as a port`},
		{"ports=65536", nil, `unable to parse "65536" as a port`},
		{"ports=0", nil, `port "0" must be > 0`},
		{"ports=1" + strings.Repeat(",1", 127), nil, "more than 127 ports"},
	}
	for _, tt := range tests {
		q, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParsePorts(q)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, %v", tt.query, got, err)
		}
	}
}

// request writes lines of a request, and reads the head of the answer.
func request(t *testing.T, srv *httptest.Server, lines ...string) (*http.Response, net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_, err = io.WriteString(c, strings.Join(append(lines, "Host: relay", "", ""), "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp, c
}

const (
	post     = "POST /pods/web/portforward HTTP/1.1"
	get      = "GET /pods/web/portforward HTTP/1.1"
	upgrade  = "Connection: keep-alive, Upgrade"
	toSPDY   = "Upgrade: SPDY/3.1"
	toSocket = "Upgrade: websocket"
	version  = "X-Stream-Protocol-Version: portforward.k8s.io"
	key      = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	v13      = "Sec-WebSocket-Version: 13"
)

func TestUpgrades(t *testing.T) {
	tests := []struct {
		name    string
		lines   []string
		code    int
		header  string // of the answer, with its value
		message string // of the Status
	}{
		{"spdy", []string{post, upgrade, toSPDY, version}, 101, "X-Stream-Protocol-Version: portforward.k8s.io", ""},
		{"spdy by GET", []string{get, upgrade, toSPDY, version}, 101, "Upgrade: SPDY/3.1", ""},
		{"spdy, list of versions", []string{post, upgrade, toSPDY, "X-Stream-Protocol-Version: v9, portforward.k8s.io"}, 101, "Connection: Upgrade", ""},
		{"spdy, many versions", []string{post, upgrade, toSPDY, "X-Stream-Protocol-Version: v9", version}, 101, "", ""},
		{"spdy without version", []string{post, upgrade, toSPDY}, 400, "", "X-Stream-Protocol-Version is required"},
		{"spdy, empty version", []string{post, upgrade, toSPDY, "X-Stream-Protocol-Version: ,"}, 400, "", "X-Stream-Protocol-Version is required"},
		{
			"spdy, unknown version", []string{post, upgrade, toSPDY, "X-Stream-Protocol-Version: v9"},
			403, "X-Accepted-Stream-Protocol-Versions: portforward.k8s.io", "client supports [v9], server accepts [portforward.k8s.io]",
		},
		{"no upgrade", []string{get}, 400, "", "Upgrade request required"},
		{"connection without upgrade", []string{post, "Connection: close", toSPDY, version}, 400, "", "Upgrade request required"},
		{"unknown upgrade", []string{get, upgrade, "Upgrade: h2c"}, 400, "", `"h2c" is neither`},
		{
			"tunnel", []string{get, upgrade, toSocket, v13, key, "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io"},
			101, "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io", "",
		},
		{"tunnel's key", []string{get, upgrade, toSocket, v13, key, "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io"}, 101, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", ""},
		{
			"first that is known", []string{get + "", upgrade, toSocket, v13, key, "Sec-WebSocket-Protocol: base64url.bearer.x, SPDY/3.1+portforward.k8s.io, v4.channel.k8s.io"},
			101, "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io", "",
		},
		{"unknown protocol", []string{get, upgrade, toSocket, v13, key, "Sec-WebSocket-Protocol: v5.channel.k8s.io"}, 403, "", "not supported: [v5.channel.k8s.io]"},
		{"no ports", []string{get, upgrade, toSocket, v13, key, "Sec-WebSocket-Protocol: v4.channel.k8s.io"}, 400, "", `query parameter "ports" is required`},
		{"no ports, no protocol", []string{get, upgrade, toSocket, v13, key}, 400, "", `query parameter "ports" is required`},
		{"bad ports", []string{strings.Replace(get, " HTTP", "?ports=x HTTP", 1), upgrade, toSocket, v13, key}, 400, "", `unable to parse "x" as a port`},
		{
			"too many ports for base64",
			[]string{strings.Replace(get, " HTTP", "?ports=1"+strings.Repeat(",1", 39)+" HTTP", 1), upgrade, toSocket, v13, key, "Sec-WebSocket-Protocol: v4.base64.channel.k8s.io"},
			400, "", "at most 39",
		},
		{"socket by POST", []string{post, upgrade, toSocket, v13, key}, 405, "", "GET"},
		{"socket version", []string{get, upgrade, toSocket, "Sec-WebSocket-Version: 8", key}, 426, "Sec-WebSocket-Version: 13", "version 13"},
		{"no key", []string{get, upgrade, toSocket, v13}, 400, "", "Sec-WebSocket-Key"},
		{"bad key", []string{get, upgrade, toSocket, v13, "Sec-WebSocket-Key: c2hvcnQ="}, 400, "", "Sec-WebSocket-Key"},
	}
	srv := serve(t, Config{}, newPod(nil), false)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, c := request(t, srv, tt.lines...) //nolint:bodyclose // its connection is closed instead
			defer c.Close()
			if resp.StatusCode != tt.code {
				t.Fatalf("answer %s", resp.Status)
			}
			if name, value, _ := strings.Cut(tt.header, ": "); name != "" && resp.Header.Get(name) != value {
				t.Errorf("header %v", resp.Header)
			}
			if tt.code == http.StatusSwitchingProtocols {
				return
			}
			var s status
			if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || s.Kind != "Status" || s.Code != tt.code || s.Reason == "" {
				t.Errorf("%+v, %v", s, err)
			}
			if !strings.Contains(s.Message, tt.message) {
				t.Errorf("message %q", s.Message)
			}
		})
	}
}

// HTTP/2 has no connection to take over.
func TestUpgradeOverHTTP2(t *testing.T) {
	w := httptest.NewRecorder() // no Hijacker either
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, protocolHeader: {protocolName}}
	New(Config{}).ServeSession(w, r, newPod(nil), nil)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "HTTP/1.1") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// What a client sends before it has seen the answer is not lost.
func TestEarlyFrames(t *testing.T) {
	srv := serve(t, Config{}, newPod(nil), false)
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lines := strings.Join([]string{post, upgrade, toSPDY, version, "Host: relay", "", ""}, "\r\n")
	if _, err := c.Write(appendPing([]byte(lines), 1)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if _, err := http.ReadResponse(r, nil); err != nil { //nolint:bodyclose // its connection is closed instead
		t.Fatal(err)
	}
	got := make([]byte, 12)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != string(appendPing(nil, 1)) {
		t.Errorf("%x, %v", got, err)
	}
}

func TestOtherHeadersOfTheAnswer(t *testing.T) {
	h := New(Config{})
	p := newPod(nil)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Audit-Id", "42")
		w.Header().Set("Upgrade", "nonsense")
		h.ServeSession(w, r, p, nil)
	}))
	defer srv.Close()
	resp, c := request(t, srv, post, upgrade, toSPDY, version) //nolint:bodyclose // its connection is closed instead
	defer c.Close()
	if resp.Header.Get("Audit-Id") != "42" || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Errorf("header %v", resp.Header)
	}
	p.end(errors.New("over"))
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"ports=80", "ports=80,443&ports=1", "ports=", "ports=0", "ports=65536", "port=1", "ports=%38%30", "ports=+80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		query, err := url.ParseQuery(s)
		if err != nil {
			return
		}
		ports, err := ParsePorts(query)
		if len(ports) > maxPorts || err != nil && ports != nil || slices.Contains(ports, 0) {
			t.Fatalf("%d ports, %v", len(ports), err)
		}
	})
}
