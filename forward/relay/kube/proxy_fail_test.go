package kube

import (
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHeadersThatAreTooLarge(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("x", 1<<20))
	}})
	res := rig.dial().send("GET /api HTTP/1.1", "Host: r", "X-Large: "+strings.Repeat("x", 2<<20)).response()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("request: %s", res.Status)
	}
	answer, body := rig.do(rig.ask(t.Context(), http.MethodGet, "/api", nil))
	if answer.StatusCode != http.StatusBadGateway {
		t.Errorf("answer: %s", answer.Status)
	}
	statusOf(t, body)
}

func TestAPIServerThatDoesNotAnswer(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(http.ResponseWriter, *http.Request) {}})
	rig.api.Close()
	other := newFrontRig(t, rigConfig{
		api:  func(http.ResponseWriter, *http.Request) {},
		kube: func(c *Config) { c.CAFile = filepath.Join(filepath.Dir(c.CAFile), "other") },
	})
	writeAuthority(t, other.kube.cfg.CAFile, newAuthority(t, "strangers").cert)
	for name, tt := range map[string]struct {
		rig    *frontRig
		status int
		reason string
	}{
		"away":        {rig, http.StatusServiceUnavailable, "ServiceUnavailable"},
		"not trusted": {other, http.StatusBadGateway, "BadGateway"},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := tt.rig.do(tt.rig.ask(t.Context(), http.MethodGet, "/api?token=hidden", nil))
			message, reason := statusOf(t, body)
			if res.StatusCode != tt.status || reason != tt.reason || !strings.Contains(message, "log") {
				t.Errorf("%s %s", res.Status, body)
			}
			if strings.Contains(body, "127.0.0.1") {
				t.Errorf("tells a stranger where the API server is: %s", body)
			}
			if lines := tt.rig.log.lines("pass on to the API server"); len(lines) != 1 || strings.Contains(lines[0], "hidden") {
				t.Errorf("log: %q", lines)
			}
			up := tt.rig.dial().send("GET /api HTTP/1.1", "Host: r", "Connection: Upgrade", "Upgrade: websocket").response()
			if up.StatusCode != tt.status || !up.Close {
				t.Errorf("upgrade: %s, close %t", up.Status, up.Close)
			}
		})
	}
}

// What answers is not even HTTP, or switches protocols although nobody asked.
func TestAnswersThatMakeNoSense(t *testing.T) {
	for name, tt := range map[string]struct {
		answer  string
		upgrade bool
	}{
		"garbage":                       {answer: "nonsense\r\n\r\n"},
		"nothing":                       {},
		"switch":                        {answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw"},
		"switch to nothing":             {answer: "HTTP/1.1 101 Switching Protocols\r\n\r\nraw"},
		"upgrade, garbage":              {answer: "nonsense\r\n\r\n", upgrade: true},
		"upgrade, nothing":              {upgrade: true},
		"upgrade, to something else":    {answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nraw", upgrade: true},
		"upgrade, to nothing":           {answer: "HTTP/1.1 101 Switching Protocols\r\n\r\nraw", upgrade: true},
		"upgrade, without a connection": {answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nraw", upgrade: true},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newFrontRig(t, rigConfig{plainAPI: true, api: func(w http.ResponseWriter, _ *http.Request) {
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = rw.WriteString(tt.answer)
				_ = rw.Flush()
				_ = conn.Close()
			}})
			request := []string{"GET /api HTTP/1.1", "Host: r"}
			if tt.upgrade {
				request = append(request, "Connection: Upgrade", "Upgrade: websocket")
			}
			c := rig.dial().send(request...)
			res := c.response()
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != http.StatusBadGateway || !res.Close {
				t.Errorf("%s, close %t", res.Status, res.Close)
			}
			statusOf(t, string(body))
			if _, err := c.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("the connection goes on: %v", err)
			}
		})
	}
}

// A body that stands still gives its place back, and so does one that breaks off.
func TestBodiesThatStop(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}})
	rig.front.proxy.bodyIdle = 50 * time.Millisecond
	res := rig.dial().send("POST /api HTTP/1.1", "Host: r", "Content-Length: 10").response()
	if res.StatusCode != http.StatusRequestTimeout || !res.Close {
		t.Errorf("%s, close %t", res.Status, res.Close)
	}
	r, w := io.Pipe()
	defer w.Close()
	answer, body := rig.do(rig.ask(t.Context(), http.MethodPost, "/api", r))
	if message, _ := statusOf(t, body); answer.StatusCode != http.StatusRequestTimeout || message == "" {
		t.Errorf("HTTP/2: %s %s", answer.Status, body)
	}
	// The limit is for one pause, and none for the answer.
	rig.front.proxy.bodyIdle = patienceInTests
	c := rig.dial().send("POST /api HTTP/1.1", "Host: r", "Content-Length: 2")
	for _, b := range []string{"a", "b"} {
		if _, err := c.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
	}
	if res := c.response(); res.StatusCode != http.StatusOK || res.Close {
		t.Errorf("%s, close %t", res.Status, res.Close)
	}
	if res := c.send("GET /api HTTP/1.1", "Host: r").response(); res.StatusCode != http.StatusOK {
		t.Errorf("the next request: %s", res.Status)
	}
}
