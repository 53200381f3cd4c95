package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// liar is an API server for what a real one cannot be made to say.
type liar struct {
	*httptest.Server
	asked atomic.Int32
	proto atomic.Value
}

func newLiar(t *testing.T, answer http.HandlerFunc) *liar {
	t.Helper()
	l := &liar{}
	l.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.asked.Add(1)
		l.proto.Store(r.Proto)
		answer(w, r)
	}))
	l.EnableHTTP2 = true
	l.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	l.StartTLS()
	t.Cleanup(l.Close)
	return l
}

// ca writes the file with the authority of the server.
func (l *liar) ca(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// ask returns a Kube that asks the liar.
func (l *liar) ask(t *testing.T, cfg Config) *Kube {
	t.Helper()
	cfg.APIServer, cfg.CAFile, cfg.TokenFile = l.URL, l.ca(t), tokenFile(t, relays)
	cfg.AgentAccount = "culvert-agent/culvert-agent"
	return mustNew(t, cfg)
}

func mustNew(t *testing.T, cfg Config) *Kube {
	t.Helper()
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func user(token string) relay.Identity {
	return relay.Identity{Role: relay.RoleUser, Name: "ann", Proof: bearer(token, nil)}
}

// status writes a metav1.Status as the API server does.
func status(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code,
	})
}

// What is no answer is never a denial, is asked once, and shows nobody an address.
func TestWhatTheAPISays(t *testing.T) {
	target := relay.Target{Namespace: "ns", Pod: "x", Port: 80}
	var away *httptest.Server
	tests := map[string]struct {
		answer http.HandlerFunc
		want   stream.Code
		text   string // somewhere in what the caller is told
	}{
		"denied": {func(w http.ResponseWriter, _ *http.Request) { status(w, 403, "Forbidden", "cannot create that") }, stream.Forbidden, "cannot create that"},
		"who?":   {func(w http.ResponseWriter, _ *http.Request) { status(w, 401, "Unauthorized", "Unauthorized") }, stream.Unauthenticated, "log in again"},
		"busy": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			status(w, 429, "TooManyRequests", "slow down")
		}, stream.Overloaded, "busy"},
		"broken": {func(w http.ResponseWriter, _ *http.Request) { status(w, 500, "InternalError", "etcd is at 10.0.0.1") }, stream.Unreachable, "status 500"},
		"starting": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "no", http.StatusServiceUnavailable)
		}, stream.Unreachable, "status 503"},
		"late": {func(w http.ResponseWriter, _ *http.Request) { status(w, 504, "Timeout", "") }, stream.Timeout, "try again"},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, away.URL, http.StatusTemporaryRedirect)
		}, stream.Unreachable, "status 307"},
		"a page": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>log in here</html>") }, stream.Unreachable, "try again"},
		"a lie": {func(w http.ResponseWriter, _ *http.Request) {
			say(w, `{"kind":"Pod","apiVersion":"v1"}`)
		}, stream.Forbidden, "is forbidden"},
		"nothing": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }, stream.Unreachable, "try again"},
		"half": {func(w http.ResponseWriter, _ *http.Request) {
			say(w, `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":tr`)
		}, stream.Unreachable, "try again"},
		"both": {func(w http.ResponseWriter, _ *http.Request) {
			say(w, review(`{"allowed":true,"denied":true,"reason":"by rule"}`))
		}, stream.Forbidden, `in the namespace "ns": by rule`},
		"flood":      {func(w http.ResponseWriter, _ *http.Request) { flood(w) }, stream.Unreachable, "try again"},
		"cut":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, stream.Unreachable, "try again"},
		"a long no":  {func(w http.ResponseWriter, _ *http.Request) { status(w, 403, "Forbidden", strings.Repeat("n", 1<<20)) }, stream.Forbidden, "nnn"},
		"yes at all": {func(w http.ResponseWriter, _ *http.Request) { say(w, review(`{"allowed":true}`)) }, stream.OK, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var astray atomic.Int32
			away = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { astray.Add(1) }))
			defer away.Close()
			l := newLiar(t, tt.answer)
			k := l.ask(t, Config{})
			err := k.Authorize(t.Context(), user("tok"), target)
			if got := stream.CodeOf(err); got != tt.want {
				t.Fatalf("%v: %v, want %v", got, err, tt.want)
			}
			text := stream.TextOf(err)
			if !strings.Contains(text, tt.text) || strings.Contains(text, "127.0.0.1") || strings.Contains(text, "10.0.0.1") || len(text) > 800 {
				t.Errorf("told: %.900q", text)
			}
			if l.asked.Load() != 1 && name != "cut" { // HTTP/2 may ask again what was surely not done
				t.Errorf("asked %d times", l.asked.Load())
			}
			if astray.Load() != 0 {
				t.Error("a redirect was followed")
			}
			if l.proto.Load() != "HTTP/2.0" {
				t.Errorf("asked over %v", l.proto.Load())
			}
		})
	}
}

// say answers in JSON.
func say(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, text)
}

func review(status string) string {
	return `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","metadata":{},"spec":{},"status":` + status + `}`
}

// flood answers with more than any answer has.
func flood(w http.ResponseWriter) {
	say(w, `{"kind":"SelfSubjectAccessReview","status":{"allowed":true,"reason":"`)
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range maxAnswer>>20 + 1 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
	_, _ = io.WriteString(w, `"}}`)
}

// An API server that says nothing costs its time and no more places than there are.
func TestAPIServerStalls(t *testing.T) {
	stop := make(chan struct{})
	l := newLiar(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	})
	defer close(stop)
	k := l.ask(t, Config{CallTimeout: 50 * time.Millisecond, MaxInFlight: 1})
	err := k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "x"})
	if stream.CodeOf(err) != stream.Timeout || stream.TextOf(err) == "" {
		t.Errorf("%v", err)
	}
	// The caller's own end comes first.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Authorize(ctx, user("tok"), relay.Target{Namespace: "ns", Pod: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	k.calls.callers <- struct{}{} // the one place is taken
	if err := k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "x"}); stream.CodeOf(err) != stream.Overloaded {
		t.Errorf("%v", err)
	}
	<-k.calls.callers
}

func TestAPIServerIsAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	k := mustNew(t, Config{APIServer: "https://" + addr})
	err = k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "x"})
	if stream.CodeOf(err) != stream.Unreachable || strings.Contains(stream.TextOf(err), "127.0.0.1") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v, told %q", err, stream.TextOf(err))
	}
}

// The certificate must be for the name in the URL on whatever way it is reached,
// and by what the file holds at that time.
func TestWhichAPIServer(t *testing.T) {
	l := newLiar(t, func(w http.ResponseWriter, _ *http.Request) { say(w, review(`{"allowed":true}`)) })
	good := l.ca(t)
	var dialled atomic.Int32
	tunnel := func(ctx context.Context) (net.Conn, error) {
		dialled.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Listener.Addr().String())
	}
	try := func(cfg Config) error {
		k := mustNew(t, cfg)
		return k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "x"})
	}
	if err := try(Config{APIServer: "https://example.com", CAFile: good, DialAPI: tunnel}); err != nil || dialled.Load() != 1 {
		t.Errorf("through a tunnel: %v, dialled %d", err, dialled.Load())
	}
	if err := try(Config{APIServer: "https://elsewhere.test", CAFile: good, DialAPI: tunnel}); !errors.As(err, new(*tls.CertificateVerificationError)) {
		t.Errorf("another name: %v", err)
	}
	if err := try(Config{APIServer: l.URL}); !errors.As(err, new(*tls.CertificateVerificationError)) {
		t.Errorf("another authority: %v", err)
	}
	refused := func(context.Context) (net.Conn, error) {
		return nil, &stream.Error{Code: stream.AgentOffline, Text: "no agent has a way to the API server"}
	}
	if err := try(Config{APIServer: l.URL, CAFile: good, DialAPI: refused}); stream.CodeOf(err) != stream.AgentOffline {
		t.Errorf("no tunnel: %v", err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := try(Config{APIServer: l.URL, CAFile: file}); stream.CodeOf(err) != stream.Unreachable || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(file, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := mustNew(t, Config{APIServer: l.URL, CAFile: file})
	if err := k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "x"}); stream.CodeOf(err) != stream.Unreachable {
		t.Errorf("empty file: %v", err)
	}
	content, err := os.ReadFile(good)
	if err == nil {
		err = os.WriteFile(file, content, 0o600)
	}
	if err == nil {
		err = k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "x"})
	}
	if err != nil {
		t.Errorf("the file has come: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	pool := newAuthority(t, "any").pool
	for name, cfg := range map[string]Config{
		"no URL":                  {},
		"in the clear":            {APIServer: "http://10.96.0.1"},
		"with a password":         {APIServer: "https://a:secret@10.96.0.1"},
		"with a query":            {APIServer: "https://10.96.0.1/?a=b"},
		"no host":                 {APIServer: "https:///x"},
		"no URL at all":           {APIServer: "https://[::1"},
		"account without a slash": {APIServer: testAPI, AgentAccount: "culvert", TokenFile: "x"},
		"account with two":        {APIServer: testAPI, AgentAccount: "a/b/c", TokenFile: "x"},
		"account with a colon":    {APIServer: testAPI, AgentAccount: "a/b:c", TokenFile: "x"},
		"agents without a token":  {APIServer: testAPI, AgentAccount: "a/b"},
		"impersonation likewise":  {APIServer: testAPI, Impersonate: true},
		"certificates alone":      {APIServer: testAPI, TokenFile: "x", ClientCA: pool},
		"front proxies alone":     {APIServer: testAPI, TokenFile: "x", RequestHeaderCA: pool, RequestHeaderNames: []string{"a"}},
		"any front proxy":         {APIServer: testAPI, TokenFile: "x", Impersonate: true, RequestHeaderCA: pool},
	} {
		if k, err := New(cfg); err == nil {
			_ = k.Close()
			t.Errorf("%s is accepted", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the password is shown: %v", name, err)
		}
	}
	mustNew(t, Config{APIServer: testAPI + "/cluster/7"})
}

func TestMetricsAreWritten(t *testing.T) {
	l := newLiar(t, func(w http.ResponseWriter, _ *http.Request) { status(w, 403, "Forbidden", "no") })
	k := l.ask(t, Config{})
	_ = k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "x"})
	_, _ = k.Agents().Authenticate(t.Context(), tls.ConnectionState{}, &stream.Hello{})
	_, _ = k.Callers().Authenticate(t.Context(), tls.ConnectionState{}, &stream.Hello{})
	var b bytes.Buffer
	k.WriteMetrics(&b)
	for _, want := range []string{
		`culvert_relay_kube_requests_total{call="selfsubjectaccessreview",result="forbidden"} 1`,
		`culvert_relay_agents_refused_total{reason="token"} 1`,
		`culvert_relay_callers_refused_total{reason="unauthenticated"} 1`,
		`culvert_relay_kube_remembered{of="rights"} 0`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("not there: %s\n%s", want, b.String())
		}
	}
}

// At no level of the log, and an operator may ask for any by number, does the
// token under review get into it.
func TestNoTokenInAnyLog(t *testing.T) {
	l := newLiar(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	log := &lockedBuffer{}
	k := l.ask(t, Config{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.Level(-100)}))})
	_, err := k.calls.tokenReview(t.Context(), "token-of-an-agent", "culvert-relay")
	if err == nil || strings.Contains(err.Error(), "token-of-an-agent") {
		t.Error(err)
	}
	_, _ = k.Known(t.Context(), user("token-of-a-caller"))
	for _, token := range []string{"token-of-an-agent", "token-of-a-caller", relays} {
		if strings.Contains(log.String(), token) {
			t.Errorf("%s in the log:\n%s", token, log)
		}
	}
}
