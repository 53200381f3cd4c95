package keeper

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-k8s/culvert/forward/relay/authority"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	secretName = Name{"culvert-system", "culvert-relay-tls"}
	mapName    = Name{"culvert-system", "culvert-relay-ca"}
)

const token = "the-relays-own-token"

// store is an API server with one Secret and one ConfigMap, for what a real one
// cannot be made to do: to fail when it is told to.
type store struct {
	mu      sync.Mutex
	secret  *corev1.Secret
	config  *corev1.ConfigMap
	version int
	writes  int                              // of the Secret
	reads   int                              // likewise
	fail    func(*http.Request) (status int) // 0: answer as it should be
	before  func(s *store, r *http.Request)  // runs before an answer, with mu held
}

func newStore() *store {
	s := &store{version: 1}
	meta := func(n Name) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name, ResourceVersion: "1", Labels: map[string]string{"app": "culvert"}}
	}
	s.secret = &corev1.Secret{ObjectMeta: meta(secretName), Type: corev1.SecretTypeOpaque}
	s.config = &corev1.ConfigMap{ObjectMeta: meta(mapName), Data: map[string]string{"address": "relay.test:7443"}}
	return s
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+token {
		status(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	if s.before != nil {
		s.before(s, r)
	}
	if s.fail != nil {
		if code := s.fail(r); code != 0 {
			reason := map[int]string{403: "Forbidden", 404: "NotFound", 409: "Conflict", 500: "InternalError", 503: "ServiceUnavailable"}[code]
			status(w, code, reason)
			return
		}
	}
	switch r.URL.Path {
	case "/api/v1/namespaces/culvert-system/secrets/culvert-relay-tls":
		if r.Method == http.MethodPut {
			s.put(w, r, &s.secret.ObjectMeta, &corev1.Secret{}, func(o any) { s.secret = o.(*corev1.Secret); s.writes++ })
			return
		}
		s.reads++
		answer(w, s.secret)
	case "/api/v1/namespaces/culvert-system/configmaps/culvert-relay-ca":
		if r.Method == http.MethodPut {
			s.put(w, r, &s.config.ObjectMeta, &corev1.ConfigMap{}, func(o any) { s.config = o.(*corev1.ConfigMap) })
			return
		}
		answer(w, s.config)
	default:
		status(w, http.StatusNotFound, "NotFound")
	}
}

func (s *store) put(w http.ResponseWriter, r *http.Request, have *metav1.ObjectMeta, object metav1.Object, set func(any)) {
	if err := json.NewDecoder(r.Body).Decode(object); err != nil {
		status(w, http.StatusBadRequest, "BadRequest")
		return
	}
	if object.GetResourceVersion() != have.ResourceVersion {
		status(w, http.StatusConflict, "Conflict")
		return
	}
	s.version++
	object.SetResourceVersion(strconv.Itoa(s.version))
	set(object)
	answer(w, object)
}

// edit is what a person does with kubectl edit.
func (s *store) edit(change func(data map[string][]byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.secret = s.secret.DeepCopy()
	s.secret.ResourceVersion = strconv.Itoa(s.version)
	if s.secret.Data == nil {
		s.secret.Data = map[string][]byte{}
	}
	change(s.secret.Data)
}

func (s *store) editMap(change func(data map[string]string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.config = s.config.DeepCopy()
	s.config.ResourceVersion = strconv.Itoa(s.version)
	change(s.config.Data)
}

func (s *store) failWith(fail func(*http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *store) data() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.secret.Data)
}

func (s *store) published() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.config.Data)
}

func (s *store) counts() (reads, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads, s.writes
}

func answer(w http.ResponseWriter, o any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(typed(o))
}

// typed gives an object its kind, which the real API server does too.
func typed(o any) any {
	switch o := o.(type) {
	case *corev1.Secret:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	case *corev1.ConfigMap:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	}
	return o
}

func status(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: metav1.StatusReason(reason), Message: "said no: " + reason,
	})
}

// direct hands requests to a handler without a network, so that time can be
// made.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	_ = r.Body.Close()
	if w.Code == hangUp {
		return nil, io.ErrUnexpectedEOF
	}
	return w.Result(), nil
}

// hangUp is a status that stands for no answer at all.
const hangUp = 599

func tokenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replica is a keeper that runs.
type replica struct {
	*Keeper
	log *logged
}

type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// run runs a keeper until the test ends, or stop is called.
func run(t *testing.T, s *store, change func(*Config)) (r *replica, stop func()) {
	t.Helper()
	r = &replica{log: &logged{}}
	cfg := Config{
		APIServer: "https://api.test", TokenFile: tokenFile(t), Secret: secretName, Publish: []Name{mapName},
		Advertise: []string{"relay.test"},
		Log:       slog.New(slog.NewTextHandler(r.log, nil)),
		wrap:      func(http.RoundTripper) http.RoundTripper { return direct{s} },
	}
	if change != nil {
		change(&cfg)
	}
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Keeper = k
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

// leaf returns the serving certificate, which must verify with what is published.
func (r *replica) leaf(t *testing.T, s *store) *x509.Certificate {
	t.Helper()
	cert, err := r.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(s.published()[caCert])) {
		t.Fatal("nothing is published")
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: "relay.test", Roots: pool}); err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func parseCAs(t *testing.T, s string) []*x509.Certificate {
	t.Helper()
	cas, err := authority.ParseCerts([]byte(s), maxCerts)
	if err != nil {
		t.Fatal(err)
	}
	return cas
}

func wantLog(t *testing.T, r *replica, times int, text string) {
	t.Helper()
	if n := strings.Count(r.log.String(), text); n != times {
		t.Errorf("%d times %q, want %d, in:\n%s", n, text, times, r.log)
	}
}

const settle = 10 * time.Minute // more than a few looks at the Secret
