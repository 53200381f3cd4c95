package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHealthAnswers(t *testing.T) {
	ready := true
	h := (&Health{
		Ready:   func() bool { return ready },
		Metrics: func(w io.Writer) { fmt.Fprintln(w, "some_metric 1") },
	}).handler()
	ask := func(method, path string) (int, string) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(method, path, http.NoBody))
		return rec.Code, rec.Body.String()
	}
	for _, tc := range []struct {
		ready        bool
		method, path string
		code         int
		body         string
	}{
		{true, http.MethodGet, "/healthz", 200, "ok\n"},
		{false, http.MethodGet, "/healthz", 200, "ok\n"},
		{true, http.MethodGet, "/readyz", 200, "ok\n"},
		{false, http.MethodGet, "/readyz", 503, "not ready\n"},
		{true, http.MethodGet, "/metrics", 200, "some_metric 1\n"},
		{true, http.MethodGet, "/debug/pprof/", 404, ""},
		{true, http.MethodPost, "/readyz", 405, ""},
	} {
		ready = tc.ready
		code, body := ask(tc.method, tc.path)
		if code != tc.code || tc.body != "" && body != tc.body {
			t.Errorf("%s %s, ready %v: %d %q", tc.method, tc.path, tc.ready, code, body)
		}
	}
}

func TestHealthServe(t *testing.T) {
	h := &Health{Ready: func() bool { return true }, Metrics: func(io.Writer) {}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	at := make(chan net.Addr, 1)
	h.Listening = func(a net.Addr) { at <- a }
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, "127.0.0.1:0") }()
	addr := (<-at).String()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := h.Serve(ctx, addr); err == nil || !strings.Contains(err.Error(), "serve health") {
		t.Errorf("on a port that is taken: %v", err)
	}
	silent, err := net.Dial("tcp", addr) // holds nothing up
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := h.Serve(ctx, ""); err != nil {
		t.Errorf("with no address: %v", err)
	}
}

func TestContextEndsWithASignal(t *testing.T) {
	ctx, stop := Context()
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(30 * time.Second):
		t.Error("SIGTERM is not heard")
	}
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	log, err := Logger(&b, "json", "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud")
	if s := b.String(); strings.Contains(s, "quiet") || !strings.Contains(s, `"msg":"loud"`) {
		t.Error(s)
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"text", "loud"}, {"", "info"}, {"text", ""}} {
		if _, err := Logger(&b, bad[0], bad[1]); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestVersion(t *testing.T) {
	if got := Version("v1"); got != "v1" {
		t.Error(got)
	}
	if Version("") == "" {
		t.Error("no version")
	}
}

func TestList(t *testing.T) {
	var l List
	for _, s := range []string{"a, b", "", "c,,d"} {
		if err := l.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(l, List{"a", "b", "c", "d"}) || l.String() != "a,b,c,d" {
		t.Errorf("%q", l)
	}
}

func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(1 << 40)
	defer debug.SetMemoryLimit(before)
	if got := MemoryLimit(); got != 1<<40 {
		t.Errorf("%d, and it is 1 TiB", got)
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if got := MemoryLimit(); got != 0 {
		t.Errorf("%d without a limit", got)
	}
}
