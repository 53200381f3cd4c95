package kube

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// server answers every question in the same way.
func server(t *testing.T, code int, answer any) *API {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(s.Close)
	api, err := newAPI(&rest.Config{Host: s.URL}, s.Client())
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func configMap(data map[string]string) corev1.ConfigMap {
	return corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: data}
}

func status(code int32, reason metav1.StatusReason) metav1.Status {
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: code, Reason: reason, Message: "because"}
}

func TestFind(t *testing.T) {
	r, err := Find(t.Context(), server(t, 200, configMap(map[string]string{"address": " relay:443\n", "ca.crt": "pem"})))
	if err != nil || r.Addr != "relay:443" || string(r.CA) != "pem" || !strings.Contains(r.From, "culvert-system/culvert-relay-ca") {
		t.Errorf("%+v, %v", r, err)
	}
	for name, api := range map[string]*API{
		"no ConfigMap": server(t, 404, status(404, metav1.StatusReasonNotFound)),
		"not be read":  server(t, 403, status(403, metav1.StatusReasonForbidden)),
		"because":      server(t, 500, status(500, metav1.StatusReasonInternalError)),
		"bytes":        server(t, 200, configMap(map[string]string{"ca.crt": strings.Repeat("x", maxCA+1)})),
		"garbage":      server(t, 200, "garbage"),
	} {
		if _, err := Find(t.Context(), api); !errors.Is(err, ErrNoRelay) || !strings.Contains(err.Error(), name) && name != "garbage" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFromCluster(t *testing.T) {
	for server, want := range map[string]string{
		"https://relay:7443": "relay:7443", "https://relay": "relay:443", "https://[::1]/path": "[::1]:443",
		"http://relay:7443": "", "relay:7443": "", "": "", "https://": "",
	} {
		r, err := FromCluster(server, "name", []byte("pem"))
		if (want == "") != (err != nil) || r.Addr != want || want != "" && r.ServerName != "name" {
			t.Errorf("%q: %+v, %v", server, r, err)
		}
	}
}

const kubeconfigText = `
apiVersion: v1
kind: Config
current-context: lab
clusters:
- {name: lab, cluster: {server: "https://api:6443", certificate-authority-data: cGVt}}
- {name: other, cluster: {server: "https://other"}}
users:
- {name: dev, user: {token: abc}}
- {name: cert, user: {client-certificate: c.pem, client-key: k.pem}}
contexts:
- {name: lab, context: {cluster: lab, user: dev, namespace: team}}
- {name: certs, context: {cluster: lab, user: cert}}
- {name: taken, context: {cluster: other, user: dev}}
`

func TestAddContext(t *testing.T) {
	load := func() *clientcmdapi.Config {
		cfg, err := clientcmd.Load([]byte(kubeconfigText))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	relay := Relay{Addr: "relay:7443", CA: []byte("relay-pem"), ServerName: "relay.example.com"}
	cfg := load()
	name, replaced, err := AddContext(cfg, Addition{From: "lab", Relay: relay})
	if err != nil || name != "lab-culvert" || replaced {
		t.Fatalf("%q, %v, %v", name, replaced, err)
	}
	// It must survive being written and read.
	b, err := clientcmd.Write(*cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err = clientcmd.Load(b); err != nil {
		t.Fatal(err)
	}
	context, cluster := cfg.Contexts[name], cfg.Clusters[name]
	if context.AuthInfo != "dev" || context.Namespace != "team" || context.Cluster != name || cfg.CurrentContext != "lab" {
		t.Errorf("context %+v", context)
	}
	if cluster.Server != "https://relay:7443" || string(cluster.CertificateAuthorityData) != "relay-pem" ||
		cluster.TLSServerName != "relay.example.com" || !IsRelay(cluster) || IsRelay(cfg.Clusters["lab"]) {
		t.Errorf("cluster %+v", cluster)
	}
	if _, ok := cluster.Extensions[Extension].(*runtime.Unknown); !ok {
		t.Errorf("extension %T", cluster.Extensions[Extension])
	}
	if _, replaced, err := AddContext(cfg, Addition{From: "lab", Relay: Relay{Addr: "new:1"}}); !replaced || err != nil || cfg.Clusters[name].Server != "https://new:1" {
		t.Errorf("again: %v, %v, %+v", replaced, err, cfg.Clusters[name])
	}
	alone, err := Reduce(cfg, name)
	if err != nil || len(alone.Clusters) != 1 || len(alone.AuthInfos) != 1 || len(alone.Contexts) != 1 || alone.CurrentContext != name {
		t.Errorf("reduced to %+v, %v", alone, err)
	}
	if _, _, err := AddContext(cfg, Addition{From: name, Relay: relay}); !errors.Is(err, ErrIsRelay) {
		t.Errorf("a relay behind a relay: %v", err)
	}

	for want, a := range map[string]Addition{
		"no current context":                 {},
		"does not exist":                     {From: "nope"},
		"is a client certificate":            {From: "certs"},
		"exists and is something else":       {From: "lab", Name: "taken"},
		`cluster "other" exists and is some`: {From: "lab", Name: "other"},
	} {
		if _, _, err := AddContext(load(), a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", a, err, want)
		}
	}
	if _, _, err := AddContext(load(), Addition{From: "certs", Certificates: true, Relay: relay}); err != nil {
		t.Errorf("a certificate, forced: %v", err)
	}
	if _, err := Reduce(load(), "nope"); err == nil {
		t.Error("reduced to a context that does not exist")
	}
}
