package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// api is an API server with objects at paths, as far as the wiring of the process
// needs one; what the rooms do with it is tested there and on a real one.
type api struct {
	mu      sync.Mutex
	objects map[string]map[string]any
	seen    []string // method, path and Authorization of each request
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	w.Header().Set("Content-Type", "application/json")
	object, ok := a.objects[r.URL.Path]
	switch {
	case r.URL.Path == "/version":
		_, _ = io.WriteString(w, `{"gitVersion":"v1.36.3"}`)
		return
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
		return
	case r.Method == http.MethodPut:
		object = nil
		if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		a.objects[r.URL.Path] = object
	}
	_ = json.NewEncoder(w).Encode(object)
}

func (a *api) put(path, kind string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.objects[path] = map[string]any{"kind": kind, "apiVersion": "v1", "metadata": map[string]any{"name": filepath.Base(path), "resourceVersion": "1"}}
}

// value is data[key] of the object at path.
func (a *api) value(path, key string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	data, _ := a.objects[path]["data"].(map[string]any)
	s, _ := data[key].(string)
	return s
}

func (a *api) saw(want string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.seen, want)
}

// start runs a relay at an API server, both until the test ends.
func start(t *testing.T, a *api, args ...string) *said {
	t.Helper()
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	srv := httptest.NewTLSServer(a)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	for path, content := range map[string][]byte{
		ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), token: []byte("own-token"),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args = append([]string{
		"serve", "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0", "--drain-timeout=0s",
		"--kube", "--kube-apiserver=" + srv.URL, "--kube-apiserver-ca=" + ca, "--kube-token-file=" + token,
	}, args...)
	ctx, stop := context.WithCancel(t.Context())
	log, code := &said{}, make(chan int, 1)
	go func() { code <- run(ctx, args, io.Discard, log) }()
	t.Cleanup(func() {
		stop()
		if c := <-code; c != 0 {
			t.Errorf("exit code %d: %s", c, log.buf.String())
		}
	})
	return log
}

// await waits for something that a running relay does by itself.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

func fetch(t *testing.T, url string, tc *tls.Config, token string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: tc}, Timeout: 20 * time.Second}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// A relay in a cluster is ready once its certificates are in the Secret, shows
// them, and passes on what kubectl asks with the caller's own token.
func TestServeInCluster(t *testing.T) {
	const (
		secret  = "/api/v1/namespaces/culvert-system/secrets/culvert-relay-tls"
		configs = "/api/v1/namespaces/culvert-system/configmaps/culvert-relay-ca"
	)
	a := &api{objects: map[string]map[string]any{}}
	log := start(t, a,
		"--agent-service-account=culvert-agent/culvert-agent", "--tls-secret=culvert-system/culvert-relay-tls",
		"--advertise=culvert-relay.culvert-system.svc", "--ca-configmap=culvert-system/culvert-relay-ca",
	)
	addr := log.find(t, `relay listens" addr=(127\.0\.0\.1:\d+)`)
	health := "http://" + log.find(t, `health listens" addr=(\S+)`)
	log.find(t, `make it, empty, as the chart does`)
	if ready, alive := get(t, health+"/readyz"), get(t, health+"/healthz"); ready != http.StatusServiceUnavailable || alive != http.StatusOK {
		t.Errorf("without a Secret: %d, %d", ready, alive)
	}
	a.put(configs, "ConfigMap")
	a.put(secret, "Secret")
	await(t, "readiness", func() bool { return get(t, health+"/readyz") == http.StatusOK })

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(a.value(configs, "ca.crt")))
	tc := &tls.Config{RootCAs: pool, ServerName: "culvert-relay.culvert-system.svc"}
	if code, body := fetch(t, "https://"+addr+"/version", tc, "janes-token"); code != http.StatusOK || !strings.Contains(body, "v1.36.3") {
		t.Errorf("%d %s", code, body)
	}
	if !a.saw("GET /version Bearer janes-token") || !a.saw("GET "+secret+" Bearer own-token") {
		t.Errorf("the API server saw %q", a.seen)
	}
	_, metrics := fetch(t, health+"/metrics", nil, "")
	for _, name := range []string{"culvert_relay_certificate_expiry_timestamp_seconds 1", "culvert_relay_kubectl_stalls_total 0", "culvert_relay_kube_remembered", "culvert_relay_nodes 0"} {
		if !strings.Contains(metrics, name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
}

// The API server is asked through agents only, if the relay is told so.
func TestServeViaAgents(t *testing.T) {
	a := &api{objects: map[string]map[string]any{}}
	state := filepath.Join(t.TempDir(), "state")
	log := start(t, a, "--state-dir="+state, "--advertise=relay.test", "--kube-via-agents")
	addr := log.find(t, `relay listens" addr=(127\.0\.0\.1:\d+)`)
	ca, err := os.ReadFile(filepath.Join(state, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	code, body := fetch(t, "https://"+addr+"/version", &tls.Config{RootCAs: pool, ServerName: "relay.test"}, "janes-token")
	if code < 500 || !strings.Contains(body, `"Status"`) || len(a.seen) != 0 {
		t.Errorf("%d %s, the API server saw %q", code, body, a.seen)
	}
}

// A relay outside: agents join by token of its own, callers come from the cluster.
func TestServeOutside(t *testing.T) {
	a := &api{objects: map[string]map[string]any{}}
	state := filepath.Join(t.TempDir(), "state")
	log := start(t, a, "--state-dir="+state, "--advertise=relay.test")
	addr := log.find(t, `relay listens" addr=(127\.0\.0\.1:\d+)`)
	ca, err := os.ReadFile(filepath.Join(state, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	if code, _ := fetch(t, "https://"+addr+"/version", &tls.Config{RootCAs: pool, ServerName: "relay.test"}, "janes-token"); code != http.StatusOK {
		t.Errorf("%d", code)
	}
	if !a.saw("GET /version Bearer janes-token") {
		t.Errorf("the API server saw %q", a.seen)
	}
}
