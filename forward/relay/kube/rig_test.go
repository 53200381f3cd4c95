package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/culvert-k8s/culvert/forward/relay"
)

// answers stand where the API server is, in the same process, so that tests of
// what is remembered have a clock of their own. The real one is asked in
// test/kube.
type answers struct {
	mu     sync.Mutex
	asked  map[string]int                                // by the last part of the path
	users  map[string]authenticationv1.UserInfo          // by bearer token
	tokens map[string]authenticationv1.TokenReviewStatus // what reviews say
	rights func(user string, what *authorizationv1.ResourceAttributes) bool
	pods   map[string]*corev1.Pod // by NAMESPACE/NAME
	away   bool                   // no answer at all
	code   int                    // instead of an answer, unless 0
	before func(*http.Request)    // called without the lock
}

func newAnswers() *answers {
	return &answers{
		asked:  make(map[string]int),
		users:  map[string]authenticationv1.UserInfo{"tok": {Username: "ann", Groups: []string{"dev"}}},
		tokens: make(map[string]authenticationv1.TokenReviewStatus),
		pods:   make(map[string]*corev1.Pod),
		rights: func(string, *authorizationv1.ResourceAttributes) bool { return true },
	}
}

// set changes answers.
func (a *answers) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// count returns how often something was asked.
func (a *answers) count(what string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[what]
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.before != nil {
		a.before(r)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	parts := strings.Split(r.URL.Path, "/")
	what := parts[len(parts)-1]
	if r.Method == http.MethodGet {
		what = "pods"
	}
	a.asked[what]++
	if a.away {
		return nil, errors.New("connection refused")
	}
	if a.code != 0 {
		return respond(a.code, failure(a.code, "Whatever", "not now"))
	}
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	if what == "tokenreviews" {
		return a.review(body)
	}
	user, known := a.users[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if !known {
		return respond(http.StatusUnauthorized, failure(http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized"))
	}
	switch what {
	case "selfsubjectreviews":
		return respond(http.StatusCreated, &authenticationv1.SelfSubjectReview{
			TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectReview", APIVersion: "authentication.k8s.io/v1"},
			Status:   authenticationv1.SelfSubjectReviewStatus{UserInfo: user},
		})
	case "selfsubjectaccessreviews":
		var in authorizationv1.SelfSubjectAccessReview
		_ = json.Unmarshal(body, &in)
		in.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: a.rights(user.Username, in.Spec.ResourceAttributes)}
		return respond(http.StatusCreated, &in)
	}
	pod, ok := a.pods[parts[4]+"/"+parts[6]]
	if !ok {
		return respond(http.StatusNotFound, failure(http.StatusNotFound, metav1.StatusReasonNotFound, `pods "`+parts[6]+`" not found`))
	}
	return respond(http.StatusOK, pod)
}

func (a *answers) review(body []byte) (*http.Response, error) {
	var in authenticationv1.TokenReview
	_ = json.Unmarshal(body, &in)
	in.Status = a.tokens[in.Spec.Token]
	return respond(http.StatusCreated, &in)
}

func failure(code int, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	}
}

func respond(code int, body any) (*http.Response, error) {
	b, err := json.Marshal(body)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(b)),
	}, err
}

// ask returns a Kube that asks a.
func (a *answers) ask(t *testing.T, cfg Config) *Kube {
	t.Helper()
	cfg.APIServer, cfg.TokenFile, cfg.AgentAccount = testAPI, tokenFile(t, relays), "culvert-agent/culvert-agent"
	k := mustNew(t, cfg)
	calls, err := newCalls(&k.cfg, k.api, &ownToken{file: cfg.TokenFile}, a, k.metrics)
	if err != nil {
		t.Fatal(err)
	}
	k.calls, k.agents.calls = calls, calls
	return k
}

// pod returns one that runs.
func pod(name, uid, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}}
	p.Namespace, p.Name, p.UID, p.Spec.NodeName, p.Status.Phase = "ns", name, types.UID(uid), node, corev1.PodRunning
	for _, c := range change {
		c(p)
	}
	return p
}

// web returns the target of most tests.
func web() relay.Target { return relay.Target{Namespace: "ns", Pod: "web", Port: 80} }
