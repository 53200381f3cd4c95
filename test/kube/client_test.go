//go:build linux

package kube

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	forwarding "github.com/culvert-k8s/culvert/forward/client"
	targets "github.com/culvert-k8s/culvert/forward/client/kube"
	"github.com/culvert-k8s/culvert/proto/stream"
	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

// workloads is one of each kind of target, with a pod that becomes ready two
// seconds after it has started, and a user who may only look.
const workloads = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: %[1]s
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: once, namespace: shop}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: once}}
  template:
    metadata: {labels: {app: once}}
    spec: %[1]s
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: %[1]s
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: every, namespace: shop}
spec:
  selector: {matchLabels: {app: every}}
  template:
    metadata: {labels: {app: every}}
    spec: %[1]s
---
apiVersion: batch/v1
kind: Job
metadata: {name: job, namespace: shop}
spec:
  template: {spec: %[2]s}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: rc, namespace: shop}
spec:
  replicas: 1
  selector: {app: rc}
  template:
    metadata: {labels: {app: rc}}
    spec: %[1]s
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: raw, port: 81, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: colour, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: nothing, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: looker, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: look, namespace: shop}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list]}
- {apiGroups: [apps], resources: [deployments], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: look, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: look}
subjects: [{kind: ServiceAccount, name: looker, namespace: shop}]
`

func workloadsText() string {
	spec := func(restart string) string {
		return fmt.Sprintf(`{terminationGracePeriodSeconds: 1, restartPolicy: %s, containers: [{name: main, image: "%s",
      imagePullPolicy: Never, args: ["-http", "0.0.0.0:8080"], ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}],
      readinessProbe: {httpGet: {port: 8080}, initialDelaySeconds: 2, periodSeconds: 1}}]}`, restart, lab.PodImage)
	}
	return fmt.Sprintf(workloads, spec("Always"), spec("Never"))
}

// shop is a cluster with the workloads, asked from the client host.
type shop struct {
	c   *cluster.Cluster
	api *targets.API
}

func (s *shop) as(t *testing.T, kubeconfig string) *targets.API {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Dial = func(ctx context.Context, _, address string) (net.Conn, error) { return s.c.Client.Dial(ctx, address) }
	api, err := targets.NewAPI(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	return api
}

// follower is a Follower that runs, and what it said.
type follower struct {
	*targets.Follower
	mu    sync.Mutex
	moved []string
}

func (s *shop) follow(t *testing.T, api *targets.API, typ, name, selector string) *follower {
	t.Helper()
	f := new(follower)
	cfg := targets.Config{
		API: api, Namespace: "shop", Selector: selector,
		Moved: func(pod string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.moved = append(f.moved, pod)
		},
		Trouble: func(err error) { t.Errorf("%s/%s: %v", typ, name, err) },
	}
	if selector == "" {
		cfg.Ref = forwarding.Ref{Type: typ, Name: name}
	}
	var err error
	if f.Follower, err = targets.Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return f
}

func (f *follower) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.moved)
}

// TestClient follows real workloads through what happens to them.
func TestClient(t *testing.T) {
	cluster.Require(t)
	s := &shop{c: cluster.ForTest(t, cluster.Config{})}
	if err := s.c.Apply(t.Context(), workloadsText()); err != nil {
		t.Fatal(err)
	}
	s.api = s.as(t, s.c.AdminKubeconfig)
	t.Run("bootstrap", s.bootstrap)
	t.Run("targets", s.targets)
	t.Run("ports", s.ports)
	t.Run("rollout", s.rollout)
	t.Run("recreate", s.recreate)
	t.Run("reborn", s.reborn)
	t.Run("blue and green", s.colours)
	t.Run("credential", s.credential)
}

// bootstrap comes before any pod is ready: nothing is promised until one is.
func (s *shop) bootstrap(t *testing.T) {
	f := s.follow(t, s.api, "deployments", "web", "")
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	p, err := f.Await(ctx)
	if err != nil || !p.Ready || !strings.HasPrefix(p.Name, "web-") || p.Node == "" {
		t.Errorf("%+v, %v", p, err)
	}
}

func (s *shop) targets(t *testing.T) {
	for target, prefix := range map[string]string{
		"deployments/web": "web-", "statefulsets/db": "db-0", "daemonsets/every": "every-", "jobs/job": "job-",
		"replicationcontrollers/rc": "rc-", "services/web": "web-", "pods/db-0": "db-0", "app=db": "db-0",
	} {
		typ, name, _ := strings.Cut(target, "/")
		selector := ""
		if name == "" {
			selector = target
		}
		f := s.follow(t, s.api, typ, name, selector)
		ctx, cancel := context.WithTimeout(t.Context(), longEnough)
		if p, err := f.Await(ctx); err != nil || !strings.HasPrefix(p.Name, prefix) {
			t.Errorf("%s: %+v, %v", target, p, err)
		}
		cancel()
	}
	out, err := s.c.Kubectl(t.Context(), "get", "replicasets", "-n", "shop", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.follow(t, s.api, "replicasets", out, "").Await(t.Context()); err != nil || !strings.HasPrefix(p.Name, out) {
		t.Errorf("%s: %+v, %v", out, p, err)
	}
	for _, tt := range []struct{ typ, name, want string }{
		{"pods", "nobody", `pods "nobody" not found`},
		{"deployments", "nobody", `deployments.apps "nobody" not found`},
		{"services", "nothing", "invalid service 'nothing': Service is defined without a selector"},
	} {
		_, err := targets.Follow(t.Context(), targets.Config{API: s.api, Namespace: "shop", Ref: forwarding.Ref{Type: tt.typ, Name: tt.name}})
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s/%s: %v", tt.typ, tt.name, err)
		}
	}
}

func (s *shop) ports(t *testing.T) {
	service, pod := s.follow(t, s.api, "services", "web", ""), s.follow(t, s.api, "deployments", "web", "")
	for _, tt := range []struct {
		f        *follower
		in, want string
	}{
		{service, "80", "80:8080"},
		{service, ":http", "0:8080"},
		{service, "raw", "81:8080"},
		{service, "53", "UDP protocol is not supported for 53"},
		{service, "82", "Service web does not have a service port 82"},
		{pod, "8000:http", "8000:8080"},
		{pod, "dns", "UDP protocol is not supported for dns"},
		{pod, "1234", "1234:1234"},
	} {
		spec, err := forwarding.ParsePortSpec(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		ports, err := tt.f.Ports(t.Context(), []forwarding.PortSpec{spec})
		if got := fmt.Sprint(ports, err); got != "["+tt.want+"] <nil>" && got != "[] "+tt.want {
			t.Errorf("%s of %s is %s, want %s", tt.in, tt.f, got, tt.want)
		}
	}
}

// through asks for the way to a port all the time until stopped, as a busy program
// would, and reports each answer.
func through(t *testing.T, f *follower, answer func(forwarding.Target, error)) (stop func()) {
	t.Helper()
	route := f.Route(forwarding.PortSpec{Name: "http"})
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			if target, err := route.Next(ctx); ctx.Err() == nil {
				answer(target, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	return func() { cancel(); asking.Wait() }
}

// readyNow waits for a ready pod with the labels other than the old one.
func (s *shop) readyNow(t *testing.T, selector, old string) (name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	err := cluster.Await(ctx, "another pod of "+selector, func(ctx context.Context) error {
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Status   struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if err := s.c.Do(ctx, http.MethodGet, "/api/v1/namespaces/shop/pods?labelSelector="+url.QueryEscape(selector), nil, &list); err != nil {
			return err
		}
		for _, p := range list.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == "Ready" && c.Status == "True" && p.Metadata.Name != old {
					name = p.Metadata.Name
					return nil
				}
			}
		}
		return fmt.Errorf("%d pods, none of them", len(list.Items))
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// rollout replaces all pods of a deployment while somebody connects: there is
// always a pod to go to, and never one that is gone.
func (s *shop) rollout(t *testing.T) {
	f := s.follow(t, s.api, "services", "web", "")
	first, err := f.Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var errs []error
	seen := map[string]int{}
	stop := through(t, f, func(target forwarding.Target, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
		}
		seen[target.Pod]++
	})
	if _, err := s.c.Kubectl(t.Context(), "rollout", "restart", "deployment/web", "-n", "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.c.Kubectl(t.Context(), "rollout", "status", "deployment/web", "-n", "shop", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	err = cluster.Await(ctx, "another pod", func(context.Context) error {
		if p, ok := f.Current(); !ok || p.Name == first.Name {
			return fmt.Errorf("still %+v", p)
		}
		return nil
	})
	stop()
	if err != nil {
		t.Fatal(err)
	}
	last, _ := f.Current()
	if out, err := s.c.Kubectl(t.Context(), "get", "pod", "-n", "shop", last.Name); err != nil {
		t.Errorf("goes to a pod that is gone: %s %v", out, err)
	}
	if len(errs) > 0 || len(seen) > 3 {
		t.Errorf("errors %v, went to %v", errs, seen)
	}
	if moved := f.heard(); len(moved) == 0 || moved[len(moved)-1] != last.Name {
		t.Errorf("told of %v, the last is %s", moved, last.Name)
	}
	t.Logf("connections went to %v", seen)
}

// recreate leaves a gap without pods. A connection waits and goes through within
// a second of the new pod being ready, for who may watch and for who may not.
func (s *shop) recreate(t *testing.T) {
	token, err := s.c.Token(t.Context(), "shop", "looker", 0)
	if err != nil {
		t.Fatal(err)
	}
	file, err := s.c.TokenKubeconfig("looker", token)
	if err != nil {
		t.Fatal(err)
	}
	for name, api := range map[string]*targets.API{"watching": s.api, "looking": s.as(t, file)} {
		t.Run(name, func(t *testing.T) {
			f := s.follow(t, api, "deployments", "once", "")
			first, err := f.Await(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			arrived := map[string]time.Time{}
			stop := through(t, f, func(target forwarding.Target, err error) {
				mu.Lock()
				defer mu.Unlock()
				if _, known := arrived[target.Pod]; err == nil && !known {
					arrived[target.Pod] = time.Now()
				}
			})
			defer stop()
			if _, err := s.c.Kubectl(t.Context(), "rollout", "restart", "deployment/once", "-n", "shop"); err != nil {
				t.Fatal(err)
			}
			next := s.readyNow(t, "app=once", first.Name)
			ready := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), longEnough)
			defer cancel()
			err = cluster.Await(ctx, "connections to "+next, func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				if arrived[next].IsZero() {
					return fmt.Errorf("only to %v", arrived)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("first connection %v after the pod was seen to be ready", arrived[next].Sub(ready).Round(time.Millisecond))
		})
	}
}

// reborn deletes a pod that comes back under its name, and tells the follower what
// a relay would.
func (s *shop) reborn(t *testing.T) {
	uid := func() string {
		out, err := s.c.Kubectl(t.Context(), "get", "pod", "db-0", "-n", "shop", "-o", "jsonpath={.metadata.uid}")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	f := s.follow(t, s.api, "pods", "db-0", "")
	if _, err := f.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := uid()
	route := f.Route(forwarding.PortSpec{Name: "http"})
	if _, err := s.c.Kubectl(t.Context(), "delete", "pod", "db-0", "-n", "shop"); err != nil {
		t.Fatal(err)
	}
	if !route.Refused(forwarding.Target{Namespace: "shop", Pod: "db-0", Port: 8080}, &stream.Error{Code: stream.PodNotFound}) {
		t.Error("not worth another try")
	}
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	target, err := route.Next(ctx)
	if err != nil || target != (forwarding.Target{Namespace: "shop", Pod: "db-0", Port: 8080}) || uid() == old {
		t.Errorf("%v, %v, uid %s", target, err, old)
	}
}

// colours points a service to other pods, whereupon the ones it had refuse.
func (s *shop) colours(t *testing.T) {
	f := s.follow(t, s.api, "services", "colour", "")
	p, err := f.Await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.c.Kubectl(t.Context(), "patch", "service", "colour", "-n", "shop", "-p", `{"spec":{"selector":{"app":"once"}}}`); err != nil {
		t.Fatal(err)
	}
	route := f.Route(forwarding.PortSpec{Remote: 80})
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	err = cluster.Await(ctx, "the other pods", func(ctx context.Context) error {
		route.Refused(forwarding.Target{Pod: p.Name}, &stream.Error{Code: stream.NamespaceGone})
		target, err := route.Next(ctx)
		if err == nil && !strings.HasPrefix(target.Pod, "once-") {
			err = fmt.Errorf("still %s", target.Pod)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// credential takes the token out of a kubeconfig that the API server accepts.
func (s *shop) credential(t *testing.T) {
	token, err := s.c.Token(t.Context(), "shop", "looker", 0)
	if err != nil {
		t.Fatal(err)
	}
	file, err := s.c.TokenKubeconfig("looker-credential", token)
	if err != nil {
		t.Fatal(err)
	}
	for kubeconfig, want := range map[string]string{file: token, s.c.AdminKubeconfig: ""} {
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		c, err := targets.NewCredential(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Token()
		cert, certErr := c.Certificate()
		if got != want || err != nil || certErr != nil || (cert == nil) != (want != "") {
			t.Errorf("token %d bytes, want %d, certificate %v: %v, %v", len(got), len(want), cert != nil, err, certErr)
		}
	}
}
