package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/client/relaytest"
)

// apiServer says what a real one would, as far as the texts of the program are
// concerned: what it does is tried on a real cluster, in test/kube and test/e2e.
// Namespaces stand for the rights one has there.
func apiServer(t *testing.T, r *relaytest.Relay) (url string, ca []byte) {
	t.Helper()
	pods := map[string]string{
		"web":     podJSON("web", "Running", true),
		"idle":    podJSON("idle", "Running", true),
		"pending": podJSON("pending", "Pending", false),
		"done":    podJSON("done", "Succeeded", false),
	}
	mux := http.NewServeMux()
	answer := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			switch {
			case q.Header.Get("Authorization") != "Bearer "+relaytest.Token:
				refuse(w, 401, "Unauthorized", "Unauthorized")
			case strings.Contains(q.URL.Path, "/namespaces/forbidden/"):
				refuse(w, 403, "Forbidden", `pods is forbidden: User "dev" cannot do that in the namespace "forbidden"`)
			default:
				w.WriteHeader(code)
				_, _ = w.Write([]byte(body))
			}
		}
	}
	mux.HandleFunc("/version", answer(200, `{"gitVersion": "v1.36.3"}`))
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/pods/{name}", func(w http.ResponseWriter, q *http.Request) {
		body, known := pods[q.PathValue("name")]
		if !known && q.PathValue("ns") != "forbidden" {
			refuse(w, 404, "NotFound", fmt.Sprintf("pods %q not found", q.PathValue("name")))
			return
		}
		answer(200, body)(w, q)
	})
	list := func(items ...string) string {
		return `{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [` + strings.Join(items, ",") + `]}`
	}
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/pods", func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Query().Get("watch") != "":
			refuse(w, 403, "Forbidden", "watch is forbidden")
		case q.PathValue("ns") == "empty":
			answer(200, list())(w, q)
		default:
			answer(200, list(pods["web"]))(w, q)
		}
	})
	mux.HandleFunc("GET /api/v1/namespaces/default/services/web", answer(200, serviceJSON))
	mux.HandleFunc("GET /apis/apps/v1/namespaces/default/deployments", answer(200,
		`{"kind": "DeploymentList", "apiVersion": "apps/v1", "items": [{"metadata": {"name": "front"}}]}`))
	mux.HandleFunc("GET /api/v1/namespaces", answer(200, `{"kind": "NamespaceList", "apiVersion": "v1", "items": [{"metadata": {"name": "team-a"}}]}`))
	settings, _ := json.Marshal(map[string]string{"address": r.Addr, "ca.crt": string(r.CA)})
	mux.HandleFunc("GET /api/v1/namespaces/culvert-system/configmaps/culvert-relay-ca",
		answer(200, `{"kind": "ConfigMap", "apiVersion": "v1", "data": `+string(settings)+`}`))
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/selfsubjectreviews", answer(201,
		`{"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "status": {"userInfo": {"username": "dev", "groups": ["devs"]}}}`))
	mux.HandleFunc("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body) // in any encoding
		allowed := !bytes.Contains(body, []byte("narrow")) || !bytes.Contains(body, []byte("create"))
		answer(201, fmt.Sprintf(`{"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": {"allowed": %v}}`, allowed))(w, q)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		parts := strings.Split(strings.Trim(q.URL.Path, "/"), "/")
		name, kind := parts[len(parts)-1], parts[len(parts)-2]
		if strings.HasPrefix(q.URL.Path, "/apis/") {
			kind += "." + parts[1]
		}
		refuse(w, 404, "NotFound", fmt.Sprintf("%s %q not found", kind, name))
	})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
	})
}

func podJSON(name, phase string, ready bool) string {
	state := "False"
	if ready {
		state = "True"
	}
	return fmt.Sprintf(`{"kind": "Pod", "apiVersion": "v1",
		"metadata": {"name": %[1]q, "namespace": "default", "uid": "uid-of-%[1]s", "creationTimestamp": "2026-01-01T00:00:00Z"},
		"spec": {"nodeName": "node-a", "containers": [{"name": "main", "ports": [
			{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
		"status": {"phase": %[2]q, "conditions": [{"type": "Ready", "status": %[3]q}]}}`, name, phase, state)
}

const serviceJSON = `{"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "default"},
	"spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"}, "ports": [
		{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}`

// kubeconfigs writes kubeconfigs for scripts into dir: of a user with the token
// that server and relay take, of one without, and of one with a certificate.
func kubeconfigs(t *testing.T, r *relaytest.Relay, dir string) {
	t.Helper()
	url, ca := apiServer(t, r)
	for name, user := range map[string]map[string]any{
		"kubeconfig": {"token": relaytest.Token}, "kubeconfig-stranger": {"token": "stranger"},
		"kubeconfig-cert": certificateUser(t),
	} {
		type named map[string]any
		b, err := json.Marshal(map[string]any{
			"apiVersion": "v1", "kind": "Config", "current-context": "lab",
			"clusters": []named{{"name": "lab", "cluster": named{"server": url, "certificate-authority-data": ca}}},
			"users":    []named{{"name": "dev", "user": user}},
			"contexts": []named{
				{"name": "lab", "context": named{"cluster": "lab", "user": "dev"}},
				{"name": "narrow", "context": named{"cluster": "lab", "user": "dev", "namespace": "narrow"}},
			},
		})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// certificateUser is the user entry of somebody with a certificate, which nobody trusts.
func certificateUser(t *testing.T) map[string]any {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dev"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{
		"client-certificate-data": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		"client-key-data":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}
