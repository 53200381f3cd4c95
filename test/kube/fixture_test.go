//go:build linux

package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kube"
	"github.com/culvert-k8s/culvert/proto/stream"
	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

// longEnough bounds every wait for something that takes seconds.
const longEnough = time.Minute

// objects are agents on both nodes, a developer with narrow rights, and his pods.
const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: culvert-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: culvert-agent}
---
apiVersion: v1
kind: Namespace
metadata: {name: dev}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: culvert-relay, namespace: culvert-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: culvert-relay}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: culvert-relay}
subjects: [{kind: ServiceAccount, name: culvert-relay, namespace: culvert-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: culvert-relay}
rules:
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [""], resources: [users], verbs: [impersonate], resourceNames: [jane]}
- {apiGroups: [""], resources: [groups], verbs: [impersonate], resourceNames: [devs]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: culvert-agent, namespace: culvert-agent}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: dev, namespace: dev}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: dev}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: blind, namespace: dev}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: forward, namespace: dev}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get]}
- {apiGroups: [""], resources: [pods/portforward], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: read, namespace: dev}
rules:
- {apiGroups: [""], resources: [pods, pods/portforward], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: blind, namespace: dev}
rules:
- {apiGroups: [""], resources: [pods/portforward], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: forward, namespace: dev}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: forward}
subjects: [{kind: ServiceAccount, name: dev, namespace: dev}, {kind: User, apiGroup: rbac.authorization.k8s.io, name: jane}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: read, namespace: dev}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: read}
subjects: [{kind: ServiceAccount, name: reader, namespace: dev}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: blind, namespace: dev}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: blind}
subjects: [{kind: ServiceAccount, name: blind, namespace: dev}]
`

// podText is the manifest of a pod of the test image.
func podText(namespace, name, node, extra string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  nodeSelector: {kubernetes.io/hostname: %s}
  %s
  containers: [{name: main, image: "%s", imagePullPolicy: Never, args: ["-http", "8080"]}]
`, name, namespace, node, extra, lab.PodImage)
}

// fixture is a cluster with those objects, and what asks it from the relay host.
type fixture struct {
	t     *testing.T
	c     *cluster.Cluster
	token string // file of the relay's own
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, c: cluster.ForTest(t, cluster.Config{}), token: filepath.Join(t.TempDir(), "token")}
	agent := "serviceAccountName: culvert-agent"
	f.apply(objects + podText("culvert-agent", "agent-1", "node1", agent) + podText("culvert-agent", "agent-2", "node2", agent) +
		podText("culvert-agent", "impostor", "node1", "serviceAccountName: default") +
		podText("dev", "web", "node2", "") + podText("dev", "host", "node1", "hostNetwork: true") + podText("dev", "waits", "nowhere", ""))
	f.running("culvert-agent/agent-1", "culvert-agent/agent-2", "culvert-agent/impostor", "dev/web", "dev/host")
	if err := os.WriteFile(f.token, []byte(f.account("culvert-system", "culvert-relay")), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// kube returns what is tried here. Answers live for a moment, so that nobody
// waits for their end.
func (f *fixture) kube(t *testing.T, change ...func(*kube.Config)) *kube.Kube {
	t.Helper()
	moment := 200 * time.Millisecond
	cfg := kube.Config{
		APIServer: f.c.Server(), CAFile: f.c.CAFile(), TokenFile: f.token,
		DialAPI: func(ctx context.Context) (net.Conn, error) {
			return f.c.Relay.Dial(ctx, strings.TrimPrefix(f.c.Server(), "https://"))
		},
		AgentAccount: "culvert-agent/culvert-agent",
		ReviewTTL:    moment, ReviewEvery: moment, CallerTTL: moment, AccessTTL: moment, DenialTTL: moment, PlaceTTL: moment,
		WatchEvery: moment, WatchGrace: 2 * moment, CallerRate: 1000, CallerBurst: 1000,
	}
	for _, c := range change {
		c(&cfg)
	}
	k, err := kube.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func (f *fixture) apply(manifest string) {
	f.t.Helper()
	if err := f.c.Apply(f.t.Context(), manifest); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) remove(t *testing.T, path string) {
	t.Helper()
	now := map[string]any{"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
	if err := f.c.Do(t.Context(), http.MethodDelete, path, now, nil); err != nil {
		t.Fatal(err)
	}
}

// object is what is looked at of a pod.
type object struct {
	Metadata struct{ Name, UID string }
	Spec     struct{ NodeName string }
	Status   struct{ Phase string }
}

func (f *fixture) pod(ctx context.Context, namespace, name string) (object, error) {
	var o object
	err := f.c.Do(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods/"+name, nil, &o)
	return o, err
}

// running waits until pods, NAMESPACE/NAME, run.
func (f *fixture) running(pods ...string) {
	f.t.Helper()
	for _, p := range pods {
		namespace, name, _ := strings.Cut(p, "/")
		f.await(f.t, "pod "+p, func(ctx context.Context) error {
			o, err := f.pod(ctx, namespace, name)
			if err == nil && o.Status.Phase != "Running" {
				err = errors.New(o.Status.Phase)
			}
			return err
		})
	}
}

func (f *fixture) await(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	if err := cluster.Await(ctx, what, try); err != nil {
		t.Fatal(err)
	}
}

// becomes waits until an answer has a code.
func (f *fixture) becomes(t *testing.T, code stream.Code, try func(context.Context) error) {
	t.Helper()
	f.await(t, "answer "+code.String(), func(ctx context.Context) error {
		if err := try(ctx); stream.CodeOf(err) != code {
			return fmt.Errorf("still %v: %w", stream.CodeOf(err), errors.Join(err, errors.New("not yet")))
		}
		return nil
	})
}

// account returns a token of a service account, for the API server unless
// audiences are named.
func (f *fixture) account(namespace, name string, audiences ...string) string {
	f.t.Helper()
	token, err := f.c.Token(f.t.Context(), namespace, name, 0, audiences...)
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

// projected asks for the token that a kubelet would put into a pod.
func (f *fixture) projected(t *testing.T, namespace, pod, account string, audiences ...string) string {
	t.Helper()
	o, err := f.pod(t.Context(), namespace, pod)
	if err != nil {
		t.Fatal(err)
	}
	request := map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{
			"expirationSeconds": 3600, "audiences": audiences,
			"boundObjectRef": map[string]any{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": o.Metadata.UID},
		},
	}
	var answer struct{ Status struct{ Token string } }
	if err := f.c.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", request, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// certificate returns the client certificate of a user of the cluster.
func (f *fixture) certificate(t *testing.T, user string, groups ...string) *x509.Certificate {
	t.Helper()
	file, err := f.c.UserKubeconfig(user, groups...)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
			}
		}
	}
	if err := json.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(config.Users[0].User.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// agent authenticates as agents do, client as clients do.
func agent(ctx context.Context, k *kube.Kube, token string) (relay.Identity, error) {
	return k.Agents().Authenticate(ctx, tls.ConnectionState{NegotiatedProtocol: stream.ALPNAgent},
		&stream.Hello{Credential: stream.CredentialToken, Token: token})
}

func client(ctx context.Context, k *kube.Kube, token string) (relay.Identity, error) {
	return k.Callers().Authenticate(ctx, tls.ConnectionState{NegotiatedProtocol: stream.ALPNClient},
		&stream.Hello{Credential: stream.CredentialToken, Token: token})
}

func mustClient(t *testing.T, k *kube.Kube, token string) relay.Identity {
	t.Helper()
	who, err := client(t.Context(), k, token)
	if err != nil {
		t.Fatal(err)
	}
	return who
}
