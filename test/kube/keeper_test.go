//go:build linux

package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/kube/keeper"
	"github.com/culvert-k8s/culvert/test/cluster"
)

// certificates is what the chart makes for the relay's certificates: empty
// objects, and the right to read and change these and nothing else.
const certificates = `
apiVersion: v1
kind: Namespace
metadata: {name: culvert-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: culvert-agent}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: culvert-relay, namespace: culvert-system}
---
apiVersion: v1
kind: Secret
metadata: {name: culvert-relay-tls, namespace: culvert-system, labels: {app: culvert}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: culvert-relay-ca, namespace: culvert-system}
data: {address: "relay.example.com:7443"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: culvert-relay-ca, namespace: culvert-agent}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: culvert-relay, namespace: culvert-system}
rules:
- {apiGroups: [""], resources: [secrets], resourceNames: [culvert-relay-tls], verbs: [get, update]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [culvert-relay-ca], verbs: [get, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: culvert-relay, namespace: culvert-agent}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [culvert-relay-ca], verbs: [get, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: culvert-relay, namespace: culvert-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: culvert-relay}
subjects: [{kind: ServiceAccount, name: culvert-relay, namespace: culvert-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: culvert-relay, namespace: culvert-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: culvert-relay}
subjects: [{kind: ServiceAccount, name: culvert-relay, namespace: culvert-system}]
`

var (
	tlsSecret = keeper.Name{Namespace: "culvert-system", Name: "culvert-relay-tls"}
	caMaps    = []keeper.Name{{Namespace: "culvert-system", Name: "culvert-relay-ca"}, {Namespace: "culvert-agent", Name: "culvert-relay-ca"}}
)

const service = "culvert-relay.culvert-system.svc"

// secretPath and mapPath are where the API server has the objects.
const (
	secretPath = "/api/v1/namespaces/culvert-system/secrets/culvert-relay-tls"
	mapPath    = "/api/v1/namespaces/%/configmaps/culvert-relay-ca"
)

// keepers is the fixture: a cluster, and the relay's own token.
type keepers struct {
	c     *cluster.Cluster
	token string // file
}

// TestKeeper keeps certificates in a real cluster with the rights that the chart
// gives, and no others.
func TestKeeper(t *testing.T) {
	c := cluster.ForTest(t, cluster.Config{Nodes: []string{"node1"}})
	if err := c.Apply(t.Context(), certificates); err != nil {
		t.Fatal(err)
	}
	token, err := c.Token(t.Context(), "culvert-system", "culvert-relay", 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &keepers{c: c, token: filepath.Join(t.TempDir(), "token")}
	if err := os.WriteFile(f.token, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := f.start(t, service), f.start(t, service)
	first := f.agree(t, a, b)
	if n := strings.Count(a.log.String()+b.log.String(), "relay certificates written"); n != 1 {
		t.Errorf("%d replicas have written:\n%s%s", n, &a.log, &b.log)
	}
	t.Run("objects", f.objects)
	t.Run("names", func(t *testing.T) {
		more := f.start(t, service, "relay.example.com:7443")
		f.await(t, "the new name", func() bool { return more.Ready() && more.leaf(t).VerifyHostname("relay.example.com") == nil })
		second := f.agree(t, more, a, b)
		if second.Equal(first) || second.VerifyHostname("relay.example.com") != nil {
			t.Errorf("serves %v", second.DNSNames)
		}
		first = second
	})
	t.Run("rotation", func(t *testing.T) { f.rotation(t, first, a, b) })
	t.Run("rights", f.rights)
	t.Run("server away", func(t *testing.T) { f.serverAway(t, a, b) })
}

// objects holds what a user and the chart see in the objects.
func (f *keepers) objects(t *testing.T) {
	var secret struct {
		Metadata struct{ Labels map[string]string }
		Data     map[string][]byte
	}
	if err := f.c.Do(t.Context(), http.MethodGet, secretPath, nil, &secret); err != nil {
		t.Fatal(err)
	}
	if len(secret.Data) != 4 || secret.Metadata.Labels["app"] != "culvert" {
		t.Errorf("labels %v, %d values", secret.Metadata.Labels, len(secret.Data))
	}
	if _, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"]); err != nil {
		t.Error(err)
	}
	if _, err := tls.X509KeyPair(secret.Data["ca.crt"], secret.Data["ca.key"]); err != nil {
		t.Error(err)
	}
	system, agent := f.published(t, "culvert-system"), f.published(t, "culvert-agent")
	if system["ca.crt"] != string(secret.Data["ca.crt"]) || agent["ca.crt"] != system["ca.crt"] || system["address"] != "relay.example.com:7443" {
		t.Errorf("published: %v, %v", system, agent)
	}
}

func (f *keepers) published(t *testing.T, namespace string) map[string]string {
	t.Helper()
	var m struct{ Data map[string]string }
	if err := f.c.Do(t.Context(), http.MethodGet, strings.Replace(mapPath, "%", namespace, 1), nil, &m); err != nil {
		t.Fatal(err)
	}
	return m.Data
}

// rotation is what docs/operations.md tells to do.
func (f *keepers) rotation(t *testing.T, first *x509.Certificate, all ...*oneKeeper) {
	if _, err := f.c.Kubectl(t.Context(), "-n", "culvert-system", "patch", "secret", "culvert-relay-tls", "--type=json",
		`-p=[{"op":"remove","path":"/data/ca.key"}]`); err != nil {
		t.Fatal(err)
	}
	f.await(t, "two authorities", func() bool {
		return strings.Count(f.published(t, "culvert-agent")["ca.crt"], "BEGIN CERTIFICATE") == 2
	})
	if !f.agree(t, all...).Equal(first) {
		t.Error("the new authority is used at once")
	}
	if _, err := f.c.Kubectl(t.Context(), "-n", "culvert-system", "patch", "secret", "culvert-relay-tls", "--type=json",
		`-p=[{"op":"remove","path":"/data/tls.key"}]`); err != nil {
		t.Fatal(err)
	}
	f.await(t, "the new authority", func() bool { return !all[0].leaf(t).Equal(first) })
	if f.agree(t, all...).Issuer.CommonName == first.Issuer.CommonName {
		t.Error("the new authority is not used")
	}
}

// serverAway stops the API server beneath keepers that run and one that starts.
func (f *keepers) serverAway(t *testing.T, all ...*oneKeeper) {
	before := f.agree(t, all...)
	f.c.Control.APIServer.Kill()
	late := f.start(t, service)
	for _, k := range all {
		k.await(t, "an error in the log", func() bool { return strings.Contains(k.log.String(), "level=ERROR") })
		if !k.Ready() || !k.leaf(t).Equal(before) {
			t.Error("a certificate is gone with the API server")
		}
	}
	if late.Ready() {
		t.Error("ready without a certificate")
	}
	if err := f.c.Control.APIServer.Start(); err != nil {
		t.Fatal(err)
	}
	if !f.agree(t, append(all, late)...).Equal(before) {
		t.Error("another certificate after the API server came back")
	}
}

// rights asks for what the relay may not do.
func (f *keepers) rights(t *testing.T) {
	const account = "--as=system:serviceaccount:culvert-system:culvert-relay"
	for args, want := range map[string]string{
		"get secret/culvert-relay-tls":    "yes",
		"update secret/culvert-relay-tls": "yes",
		"delete secret/culvert-relay-tls": "no",
		"patch secret/culvert-relay-tls":  "no",
		"get secret/other":                "no",
		"list secrets":                    "no",
		"create secrets":                  "no",
		"create configmaps":               "no",
		"list configmaps":                 "no",
	} {
		// The exit code says yes or no too.
		out, err := f.c.Kubectl(t.Context(), append([]string{"-n", "culvert-system", "auth", "can-i", account}, strings.Fields(args)...)...)
		if (want == "yes") != (err == nil) || err != nil && !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("%s: %s, %v, want %s", args, out, err, want)
		}
	}
	// A Secret of which the relay knows nothing is not made by it.
	k := f.startFor(t, keeper.Name{Namespace: "culvert-system", Name: "other"}, service)
	k.await(t, "a refusal", func() bool {
		return strings.Contains(k.log.String(), "give the relay's service account get and update")
	})
}

// oneKeeper is a keeper that runs until the test ends.
type oneKeeper struct {
	*keeper.Keeper
	log said
}

// said is a log that may be read while it is written.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write adds to the log.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

// String returns the log so far.
func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (f *keepers) start(t *testing.T, names ...string) *oneKeeper {
	return f.startFor(t, tlsSecret, names...)
}

func (f *keepers) startFor(t *testing.T, secret keeper.Name, names ...string) *oneKeeper {
	t.Helper()
	one := &oneKeeper{}
	k, err := keeper.New(keeper.Config{
		APIServer: f.c.Server(), CAFile: f.c.CAFile(), TokenFile: f.token, Secret: secret, Publish: caMaps, Advertise: names,
		PollEvery: 500 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&one.log, nil)),
		DialAPI: func(ctx context.Context) (net.Conn, error) {
			return f.c.Client.Dial(ctx, strings.TrimPrefix(f.c.Server(), "https://"))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	one.Keeper = k
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return one
}

// agree waits until all serve one certificate, which verifies with what agents
// are given.
func (f *keepers) agree(t *testing.T, all ...*oneKeeper) *x509.Certificate {
	t.Helper()
	f.await(t, "one certificate", func() bool {
		for _, k := range all {
			if !k.Ready() || !all[0].Ready() || !k.leaf(t).Equal(all[0].leaf(t)) {
				return false
			}
		}
		return true
	})
	leaf := all[0].leaf(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(f.published(t, "culvert-agent")["ca.crt"]))
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: service, Roots: pool}); err != nil {
		t.Error(err)
	}
	return leaf
}

func (k *oneKeeper) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	cert, err := k.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func (f *keepers) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	(&oneKeeper{}).await(t, what, ok)
}

func (k *oneKeeper) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := cluster.Await(ctx, what, func(context.Context) error {
		if !ok() {
			return context.DeadlineExceeded
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, &k.log)
	}
}
