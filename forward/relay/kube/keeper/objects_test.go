package keeper

import (
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// one is a keeper of a real HTTPS server, for a single round.
func one(t *testing.T, h http.Handler, change func(*Config)) *Keeper {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		APIServer: srv.URL, CAFile: ca, TokenFile: tokenFile(t), Secret: secretName, Publish: []Name{mapName},
		Advertise: []string{"relay.test"}, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.objects.close)
	return k
}

func TestOverTheNetwork(t *testing.T) {
	s := newStore()
	k := one(t, s, nil)
	if err := k.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	(&replica{Keeper: k}).leaf(t, s)
}

// Whatever the API server answers, the round ends with an error and soon.
func TestHostileServer(t *testing.T) {
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"garbage":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "garbage") }, "culvert-relay-tls"},
		"no answer": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "culvert-relay-tls"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"kind":"Secret","apiVersion":"v1","data":{"ca.key":"`)
			for b := []byte(strings.Repeat("A", 1<<16)); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, "culvert-relay-tls"},
		"another kind": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"kind":"Pod","apiVersion":"v1"}`)
		}, "culvert-relay-tls"},
		"slow down": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}, "culvert-relay-tls"},
		"not us":    {func(w http.ResponseWriter, _ *http.Request) { status(w, 401, "Unauthorized") }, "--kube-token-file"},
		"may not":   {func(w http.ResponseWriter, _ *http.Request) { status(w, 403, "Forbidden") }, "get and update"},
		"not there": {func(w http.ResponseWriter, _ *http.Request) { status(w, 404, "NotFound") }, "kubectl create secret generic"},
	} {
		t.Run(name, func(t *testing.T) {
			k := one(t, tc.handler, func(c *Config) { c.CallTimeout = 500 * time.Millisecond })
			if err := k.round(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), token) {
				t.Error(err)
			}
			if k.Ready() {
				t.Error("ready")
			}
		})
	}
}

// The relay's token is shown to the API server and to nobody it names.
func TestNoRedirects(t *testing.T) {
	var asked atomic.Bool
	k := one(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			asked.Store(true)
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}), nil)
	if err := k.round(t.Context()); err == nil || asked.Load() {
		t.Error(err, asked.Load())
	}
}
