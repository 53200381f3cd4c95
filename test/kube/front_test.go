//go:build linux

package kube

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/cluster"
)

// operator may do everything; talker is a pod with a shell that says something
// all the time.
const operator = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: dev}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: operator, namespace: dev}]
---
apiVersion: v1
kind: Pod
metadata: {name: talker, namespace: dev}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "` + cluster.ToolboxImage + `", imagePullPolicy: Never, command: [sh, -c, "while true; do echo tick; sleep 0.2; done"]}
`

// front: stock kubectl, and clients that are less kind, against the API server
// through the front.
func front(t *testing.T, f *fixture) {
	if err := f.c.ImportToolbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.apply(operator)
	f.running("dev/talker")
	d := openDoor(t, f)
	t.Run("kubectl", func(t *testing.T) { stock(t, d) })
	t.Run("streams", func(t *testing.T) { streams(t, d) })
	t.Run("rights", func(t *testing.T) { narrow(t, d) })
	t.Run("certificate", func(t *testing.T) { certified(t, d) })
	t.Run("paths", func(t *testing.T) { paths(t, d) })
	t.Run("browser", func(t *testing.T) { browser(t, d) })
}

// stock commands do and say the same on both ways.
func stock(t *testing.T, d *door) {
	direct, through := d.account(t, "operator")
	large := strings.Repeat("in and out\n", 50_000)
	for _, tt := range []struct {
		name  string
		args  []string
		stdin string
		want  string
	}{
		{"get", []string{"get", "pod", "web", "-o", "name"}, "", "pod/web"},
		{"get of nothing", []string{"get", "pod", "nothing"}, "", ""},
		{"apply", []string{"apply", "-f", "-"}, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"` + strings.Repeat("x", 200_000) + `"}}`, "configmap/applied"},
		{"apply again", []string{"apply", "-f", "-"}, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"}}`, "configmap/applied"},
		{"as somebody", []string{"auth", "whoami", "--as=jane", "--as-group=devs", "-o", "jsonpath={.status.userInfo.username}"}, "", "jane"},
		{"as somebody who may not", []string{"get", "secrets", "--as=jane"}, "", ""},
		{"logs", []string{"logs", "web"}, "", "ready"},
		{"exec", []string{"exec", "talker", "--", "sh", "-c", "echo out; echo err >&2; exit 3"}, "", "out"},
		{"exec with input", []string{"exec", "-i", "talker", "--", "sha256sum"}, large, fmt.Sprintf("%x", sha256.Sum256([]byte(large)))},
		{"exec with output", []string{"exec", "talker", "--", "sh", "-c", "yes | head -c 5000000"}, "", strings.Repeat("y\n", 2_500_000)},
		{"exec both ways", []string{"exec", "-i", "talker", "--", "sh", "-c", "cat; echo end"}, large, large + "end\n"},
		{"proxy of a pod", []string{"get", "--raw", "/api/v1/namespaces/dev/pods/web:8080/proxy/"}, "", ""},
		{"delete", []string{"delete", "configmap", "applied", "--ignore-not-found"}, "", ""},
	} {
		for name, env := range transports() {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				got, want := d.kubectl(t, through, env, tt.stdin, tt.args...), d.kubectl(t, direct, env, tt.stdin, tt.args...)
				if !strings.Contains(got.out, tt.want) {
					t.Errorf("no %.100q in %.500q, %.500q", tt.want, got.out, got.err)
				}
				switch tt.args[0] {
				case "apply", "delete": // once is not twice
					return
				}
				if got != want {
					t.Errorf("straight: %.500q, %.500q, %d\nthrough:  %.500q, %.500q, %d", want.out, want.err, want.code, got.out, got.err, got.code)
				}
			})
		}
	}
}

// streams that have no end of their own: each line comes as it is written.
func streams(t *testing.T, d *door) {
	_, through := d.account(t, "operator")
	for name, env := range transports() {
		for _, args := range [][]string{{"logs", "-f", "--tail=0", "talker"}, {"attach", "talker"}} {
			t.Run(args[0]+" "+name, func(t *testing.T) {
				command := d.c.KubectlCommand(through, append([]string{"-n", "dev"}, args...)...)
				command.Env = append(command.Env, env...)
				p, err := d.c.Client.StartCommand(t.Context(), command)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Kill()
				tick := regexp.MustCompile(`^tick$`)
				if _, err := p.WaitLine(tick, longEnough); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					if _, err := p.WaitLineFrom(p.Mark(), tick, longEnough); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
	t.Run("watch", func(t *testing.T) {
		p, err := d.c.Client.StartCommand(t.Context(), d.c.KubectlCommand(through, "-n", "dev", "get", "configmaps", "--watch", "-o", "name"))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Kill()
		if _, err := p.WaitLine(regexp.MustCompile(`^configmap/kube-root-ca.crt$`), longEnough); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"seen-a", "seen-b"} {
			d.apply(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `","namespace":"dev"}}`)
			if _, err := p.WaitLine(regexp.MustCompile(`^configmap/`+name+`$`), longEnough); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("proxy", func(t *testing.T) {
		p, err := d.c.Client.StartCommand(t.Context(), d.c.KubectlCommand(through, "proxy", "--port=0"))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Kill()
		match, err := p.WaitLine(regexp.MustCompile(`^Starting to serve on (.*)$`), longEnough)
		if err != nil {
			t.Fatal(err)
		}
		status, body, err := d.c.Client.HTTPGet(t.Context(), "http://"+match[1]+"/api/v1/namespaces/dev/pods/web")
		if status != http.StatusOK || !strings.Contains(body, `"name":"web"`) && !strings.Contains(body, `"name": "web"`) || err != nil {
			t.Errorf("%d %.200s, %v", status, body, err)
		}
	})
}

// narrow rights end where they end without the front, and with the same words.
func narrow(t *testing.T, d *door) {
	for _, tt := range []struct {
		account, want string
		args          []string
	}{
		{"dev", "pod/web", []string{"get", "pod", "web", "-o", "name"}},
		{"dev", `cannot list resource "pods"`, []string{"get", "pods"}},
		{"dev", `cannot create resource "pods/exec"`, []string{"exec", "web", "--", "/podserver", "-version"}},
		{"dev", "cannot impersonate", []string{"get", "pod", "web", "--as=system:admin"}},
		{"dev", `pods "nothing" not found`, []string{"port-forward", "pod/nothing", ":80"}},
		{"dev", "no agent is connected for node node2", []string{"port-forward", "pod/web", ":80"}},
		{"reader", `cannot create resource "pods/portforward"`, []string{"port-forward", "pod/web", ":80"}},
		{"default", `cannot get resource "pods"`, []string{"port-forward", "pod/web", ":80"}},
	} {
		direct, through := d.account(t, tt.account)
		for name, env := range transports() {
			t.Run(fmt.Sprintf("%s %s %s", tt.account, tt.args[0], name), func(t *testing.T) {
				got := d.kubectl(t, through, env, "", tt.args...)
				if !strings.Contains(got.out+got.err, tt.want) {
					t.Errorf("%+v", got)
				}
				if strings.HasPrefix(tt.want, "no agent") { // nobody needs one without the front
					return
				}
				if want := d.kubectl(t, direct, env, "", tt.args...); got != want {
					t.Errorf("straight: %+v\nthrough:  %+v", want, got)
				}
			})
		}
	}
}

// certified users are known to the relay alone, which names them to the API
// server.
func certified(t *testing.T, d *door) {
	direct, err := d.c.UserKubeconfig("jane", "devs")
	if err != nil {
		t.Fatal(err)
	}
	mallory, err := d.c.UserKubeconfig("mallory", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kubeconfig, want string
		args             []string
	}{
		{direct, "jane", []string{"auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"}},
		{direct, "devs", []string{"auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"}},
		{direct, "pod/web", []string{"get", "pod", "web", "-o", "name"}},
		{direct, `User "jane" cannot create resource "pods/exec"`, []string{"exec", "web", "--", "/podserver", "-version"}},
		{direct, "leave out --as", []string{"get", "pod", "web", "--as=system:admin"}},
		{mallory, "cannot impersonate", []string{"get", "pod", "web"}}, // the relay may not be everybody
	} {
		if got := d.kubectl(t, d.through(t, tt.kubeconfig), nil, "", tt.args...); !strings.Contains(got.out+got.err, tt.want) {
			t.Errorf("%q: %+v", tt.args, got)
		}
	}
}

// paths that the API server takes for a port forward never get there by way of
// the front, however they are written.
func paths(t *testing.T, d *door) {
	const isForward = "Upgrade request required"
	taken := 0
	for _, path := range []string{
		"/api/v1/namespaces/dev/pods/web/portforward", "/api/v1/namespaces/dev/pods/web/portforward/",
		"/api/v1/namespaces/dev/pods/web%2Fportforward", "/api/v1/namespaces/dev/pods/web/port%66orward",
		"/api/v1/namespaces%2Fdev/pods/web/portforward", "/%61pi/v1/namespaces/dev/pods/web/portforward",
		"/api/v1/namespaces/dev/pods/web/portforward//", "//api/v1/namespaces/dev/pods/web/portforward",
		"/api/v1/namespaces/dev/pods//web/portforward", "/api/v1/namespaces/dev/pods/./web/portforward",
		"/api/v1/namespaces/dev/pods/web/portforward/x", "/api/v1/namespaces/dev/pods/web/PortForward",
		"/api/v1/namespaces/dev/pods/web/portforward%252F", "/api/v1/watch/namespaces/dev/pods/web/portforward",
		"/api/v1/namespaces/dev/pods/web/portforward;x", "/api/v1/namespaces/dev/pods/web/portforward%00",
	} {
		var status *cluster.StatusError
		if err := d.c.Do(t.Context(), http.MethodGet, path, nil, nil); !errors.As(err, &status) {
			t.Errorf("%s: %v", path, err)
			continue
		}
		forward := strings.Contains(status.Text, isForward)
		if forward {
			taken++
		}
		code, body := d.get(t, path)
		t.Logf("%-55s straight %d, a port forward: %t; through %d", path, status.Code, forward, code)
		switch plain := path == "/api/v1/namespaces/dev/pods/web/portforward"; {
		case strings.Contains(body, isForward):
			t.Errorf("%s: the API server was asked for a port forward: %s", path, body)
		case plain && code != http.StatusServiceUnavailable: // for want of an agent
			t.Errorf("%s: %d %s", path, code, body)
		case forward && !plain && code != http.StatusBadRequest:
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if taken < 4 {
		t.Errorf("the API server takes %d of these for port forwards: the test tries nothing", taken)
	}
}

// browser is a client that can send its token with a WebSocket only.
func browser(t *testing.T, d *door) {
	conn := d.dial(t)
	defer conn.Close()
	token := base64.RawURLEncoding.EncodeToString([]byte(d.fixture.account("dev", "operator")))
	fmt.Fprintf(conn, "GET /api/v1/namespaces/dev/pods/talker/exec?command=echo&command=hello&stdout=true HTTP/1.1\r\nHost: relay\r\n"+
		"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+
		"Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.%s, v4.channel.k8s.io\r\n\r\n", token)
	var answer bytes.Buffer
	_, _ = answer.ReadFrom(conn)
	text := answer.String()
	if !strings.HasPrefix(text, "HTTP/1.1 101 ") || !strings.Contains(text, "\x01hello\n") || !strings.Contains(text, `"status":"Success"`) {
		t.Errorf("%.1000q", text)
	}
	if lines := strings.Split(text, "\r\n"); !slices.ContainsFunc(lines, func(l string) bool { return strings.EqualFold(l, "Sec-WebSocket-Protocol: v4.channel.k8s.io") }) {
		t.Errorf("%.1000q", text)
	}
}
