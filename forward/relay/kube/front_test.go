package kube

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const webPath = "/api/v1/namespaces/ns/pods/web/portforward"

// bench is a front without a relay behind it: pods answer what the test wants.
type bench struct {
	*front
	api   *answers
	drain chan struct{}
	let   []*session // that were let in
	do    func(ctx context.Context, s *session)
	calls []relay.Call
	err   error // of a dial

	policy, full, busy error
	sessions           int
	requests           []string

	offline map[string]bool // nodes without an agent
}

func newBench(t *testing.T, cfg Config) *bench {
	b := &bench{api: newAnswers(), drain: make(chan struct{})}
	b.api.pods["ns/web"] = pod("web", "uid-1", "node1")
	k := b.api.ask(t, cfg)
	b.front = &front{
		kube: k, draining: b.drain, proxy: newProxy(k),
		reaches: func(node string) error {
			b.api.mu.Lock()
			defer b.api.mu.Unlock()
			if b.offline[node] {
				return &stream.Error{Code: stream.AgentOffline, Text: "no agent is connected for node " + node}
			}
			return nil
		},
		session: func(context.Context, relay.Identity) (func(), error) {
			b.sessions++
			return func() { b.sessions-- }, b.full
		},
		request: func(_ context.Context, credential, _ string) (func(), error) {
			b.requests = append(b.requests, credential)
			return func() {}, b.busy
		},
		permits: func(_ context.Context, who relay.Identity, _ relay.Target, at relay.Place) error {
			if at.About == nil || len(who.Groups) == 0 {
				t.Error("a policy is not told what it needs")
			}
			return b.policy
		},
		dial: func(_ context.Context, c relay.Call) (kubectl.Connection, error) {
			b.calls = append(b.calls, c)
			return &podInTests{}, b.err
		},
		portforward: func(w http.ResponseWriter, r *http.Request, s kubectl.Session, _ []uint16) {
			b.let = append(b.let, s.(*session))
			if b.do != nil {
				b.do(r.Context(), s.(*session))
			}
			w.WriteHeader(http.StatusOK)
		},
	}
	return b
}

// podInTests is a pod's end that is joined until its context ends.
type podInTests struct{}

func (podInTests) Join(ctx context.Context, _ forward.Conn) error { <-ctx.Done(); return nil }
func (podInTests) Close() error                                   { return nil }

// ask serves one request of ann.
func (b *bench) ask(t *testing.T, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	r.Header.Set("Authorization", "Bearer tok")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		if value = strings.TrimSpace(value); value == "" {
			r.Header.Del(name)
			continue
		}
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w
}

func TestWhoIsLetIn(t *testing.T) {
	tests := map[string]struct {
		target  string // webPath if empty
		headers []string
		change  func(*bench)
		code    int
		reason  string
		text    string
	}{
		"allowed":             {code: 200},
		"allowed, with ports": {target: webPath + "?ports=80,443", code: 200},
		"bad ports":           {target: webPath + "?ports=0", code: 400, reason: "BadRequest", text: "must be > 0"},
		"denied": {
			change: func(b *bench) {
				b.api.rights = func(_ string, what *authorizationv1.ResourceAttributes) bool { return what.Verb != "create" }
			},
			code: 403, reason: "Forbidden",
			text: `pods "web" is forbidden: User "ann" cannot create resource "pods/portforward" in API group "" in the namespace "ns"`,
		},
		"no credential":    {headers: []string{"Authorization:"}, code: 401, reason: "Unauthorized", text: "log in"},
		"unknown token":    {headers: []string{"Authorization:", "Authorization: Bearer other"}, code: 401, reason: "Unauthorized", text: "log in"},
		"unknown pod":      {target: "/api/v1/namespaces/ns/pods/other/portforward", code: 404, reason: "NotFound", text: `pods "other" not found`},
		"no name of a pod": {target: "/api/v1/namespaces/ns/pods/Web_/portforward", code: 404, reason: "NotFound", text: `pods "Web_" not found`},
		"pod that waits":   {change: phase(corev1.PodPending), code: 503, reason: "ServiceUnavailable", text: "Current status=Pending"},
		"pod that is done": {change: phase(corev1.PodSucceeded), code: 409, reason: "Conflict", text: "Current status=Succeeded"},
		"pod on its node's network": {
			change: func(b *bench) { b.api.pods["ns/web"].Spec.HostNetwork = true },
			code:   403, reason: "Forbidden", text: "--allow-host-network",
		},
		"policy": {
			change: func(b *bench) { b.policy = &stream.Error{Code: stream.Policy, Text: "not this pod"} },
			code:   403, reason: "Forbidden", text: "not this pod",
		},
		"too many sessions": {
			change: func(b *bench) { b.full = &stream.Error{Code: stream.Overloaded, Text: "end one"} },
			code:   429, reason: "TooManyRequests", text: "end one",
		},
		"too many requests": {
			change: func(b *bench) { b.busy = &stream.Error{Code: stream.Overloaded, Text: "wait"} },
			code:   429, reason: "TooManyRequests", text: "wait",
		},
		"API server away":    {change: func(b *bench) { b.api.away = true }, code: 503, reason: "ServiceUnavailable", text: "try again"},
		"relay goes away":    {change: func(b *bench) { close(b.drain) }, code: 503, reason: "ServiceUnavailable", text: "try again"},
		"odd path":           {target: "/api/v1/namespaces/ns/pods/web//portforward", code: 400, reason: "BadRequest", text: "slashes"},
		"odd upgrade":        {headers: []string{"Connection: Upgrade", "Upgrade: h2c"}, code: 400, reason: "BadRequest", text: "h2c"},
		"drops who it is":    {headers: []string{"Connection: Authorization"}, code: 400, reason: "BadRequest", text: "Connection names"},
		"as somebody, alone": {headers: []string{"Authorization:", "Impersonate-User: root"}, code: 403, reason: "Forbidden", text: "--as"},
	}
	for name, tt := range tests {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+" "+method, func(t *testing.T) {
				b := newBench(t, Config{})
				defer b.kube.Close()
				if tt.change != nil {
					tt.change(b)
				}
				if tt.target == "" {
					tt.target = webPath
				}
				w := b.ask(t, method, tt.target, tt.headers...)
				if w.Code != tt.code || len(b.let) > 0 != (tt.code == 200) {
					t.Errorf("%d, %d let in: %s", w.Code, len(b.let), w.Body)
				}
				if tt.code == 200 {
					if n := b.api.count("selfsubjectaccessreviews"); n != 1 {
						t.Errorf("asked %d times what ann may", n)
					}
					return
				}
				if message, reason := statusOf(t, w.Body.String()); !strings.Contains(message, tt.text) || reason != tt.reason {
					t.Errorf("%s: %q", reason, message)
				}
			})
		}
	}
}

func phase(p corev1.PodPhase) func(*bench) {
	return func(b *bench) { b.api.pods["ns/web"].Status.Phase = p }
}

func TestOtherMethodsAreNoPortForward(t *testing.T) {
	b := newBench(t, Config{})
	defer b.kube.Close()
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPatch} {
		if w := b.ask(t, method, webPath); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, POST" || len(b.let) > 0 {
			t.Errorf("%s: %d %q", method, w.Code, w.Header())
		}
	}
}

// Every code has its answer, and those that are not known yet have one too.
func TestAnswersOfCodes(t *testing.T) {
	want := map[stream.Code]int{
		stream.NotListening: 503, stream.PodNotFound: 404, stream.WrongNode: 503, stream.NamespaceGone: 409, stream.Policy: 403,
		stream.Unauthenticated: 401, stream.Forbidden: 403, stream.AgentOffline: 503, stream.Overloaded: 429, stream.Timeout: 504,
		stream.Internal: 500, stream.Unsupported: 400, stream.Malformed: 400, stream.PodReset: 503, stream.Canceled: 503,
		stream.GoingAway: 503, stream.Unreachable: 503, stream.NameTaken: 500, stream.Stopped: 500, stream.Code(999): 500,
	}
	for code := stream.OK + 1; code.Known(); code++ {
		if want[code] == 0 {
			t.Errorf("%s: no answer is wanted", code)
		}
	}
	for code, status := range want {
		for _, text := range []string{"", "why"} {
			w := httptest.NewRecorder()
			refuse(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), &stream.Error{Code: code, Text: text})
			message, reason := statusOf(t, w.Body.String())
			if w.Code != status || reason == "" || message == "" || text != "" && code != stream.Internal && message != text {
				t.Errorf("%s: %d %s %q", code, w.Code, reason, message)
			}
			if (w.Header().Get("Retry-After") != "") != (code == stream.Overloaded) {
				t.Errorf("%s: %q", code, w.Header())
			}
		}
	}
}
