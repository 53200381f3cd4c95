package boot

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestDebugIsForLoopback(t *testing.T) {
	for addr, ok := range map[string]bool{
		"":                 true,
		"127.0.0.1:0":      true,
		"127.3.2.1:6060":   true,
		"[::1]:6060":       true,
		"localhost:6060":   true,
		":6060":            false,
		"0.0.0.0:6060":     false,
		"[::]:6060":        false,
		"10.0.0.1:6060":    false,
		"example.com:6060": false,
		"127.0.0.1":        false,
	} {
		if err := CheckDebug(addr); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
		if ok {
			continue
		}
		if err := new(Debug).Serve(t.Context(), addr); err == nil {
			t.Errorf("%q is served", addr)
		}
	}
}

func TestDebugAnswers(t *testing.T) {
	h := new(Debug).handler()
	for _, tc := range []struct {
		method, host, path string
		code               int
		body               string // is in it
	}{
		{"GET", "127.0.0.1:1", "/debug/pprof/", 200, "goroutine"},
		{"GET", "[::1]:1", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile:"},
		{"GET", "localhost", "/debug/pprof/heap?gc=1&debug=1", 200, "heap profile:"},
		{"GET", "localhost:1", "/debug/pprof/goroutine", 200, "\x1f\x8b"},
		{"GET", "127.0.0.1:1", "/debug/pprof/nonsense", 404, "no such profile"},
		{"GET", "127.0.0.1:1", "/debug/pprof/profile?seconds=301", 400, "1 to 300"},
		{"GET", "127.0.0.1:1", "/debug/pprof/trace?seconds=0", 400, "1 to 300"},
		{"GET", "127.0.0.1:1", "/metrics", 404, ""},
		{"POST", "127.0.0.1:1", "/debug/pprof/heap", 405, ""},
		{"GET", "evil.example:1", "/debug/pprof/heap", 403, "ask for 127.0.0.1"},
	} {
		r := httptest.NewRequest(tc.method, tc.path, http.NoBody)
		r.Host = tc.host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.body) {
			t.Errorf("%s %s%s: %d %.80q", tc.method, tc.host, tc.path, w.Code, w.Body)
		}
	}
}

// Who takes a profile over time is alone, and ends with the process.
func TestDebugProfilesOverTime(t *testing.T) {
	d, client := new(Debug), http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	at := make(chan net.Addr, 1)
	d.Listening = func(a net.Addr) { at <- a }
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, "127.0.0.1:0") }()
	url := "http://" + (<-at).String() + "/debug/pprof/"
	ask := func(path string) (int, string) {
		resp, err := client.Get(url + path)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	for _, path := range []string{"profile?seconds=1", "trace?seconds=1", "block?seconds=1", "mutex?seconds=1"} {
		if code, body := ask(path); code != http.StatusOK || body == "" {
			t.Errorf("%s: %d, %d bytes", path, code, len(body))
		}
	}
	d.taking.Lock()
	if code, body := ask("profile"); code != http.StatusConflict {
		t.Errorf("a second one: %d %s", code, body)
	}
	d.taking.Unlock()
	begun, long := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(long)
		resp, err := client.Get(url + "trace?seconds=300")
		close(begun) // its first bytes are here
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	<-begun
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	<-long
}
