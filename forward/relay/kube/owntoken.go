package kube

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

const (
	maxToken    = 64 << 10
	tokenMaxAge = 10 * time.Second // kubelet replaces a token when a fifth of its life is left
)

// ownToken is the relay's own bearer token, from a file that is replaced.
type ownToken struct {
	file string

	mu   sync.Mutex
	last string
	read time.Time
}

// get returns the token. One that was read before serves on when the file cannot
// be read, for as long as the API server takes it.
func (t *ownToken) get() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last != "" && time.Since(t.read) < tokenMaxAge {
		return t.last, nil
	}
	token, err := readToken(t.file)
	switch {
	case err == nil:
		t.last = token
	case t.last == "":
		return "", fmt.Errorf("read the relay's own token: %w", err)
	}
	t.read = time.Now()
	return t.last, nil
}

func readToken(file string) (string, error) {
	if file == "" {
		return "", errors.New("no file was named")
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if !isToken(token) {
		return "", fmt.Errorf("%s holds no token", file)
	}
	return token, nil
}

// isToken tells whether s may stand in a header as a bearer token.
func isToken(s string) bool {
	return s != "" && len(s) < maxToken && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// asRelay sends what the relay may ask in its own name, which is to review a
// token and nothing else, with the relay's own token.
type asRelay struct {
	host, path string // of the API server
	own        *ownToken
	next       http.RoundTripper
}

// RoundTrip refuses everything that is not a review of a token.
func (t *asRelay) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.own.get()
	switch {
	case r.URL.Scheme != "https" || r.URL.Host != t.host || r.Method != http.MethodPost ||
		r.URL.Path != path.Join("/", t.path, "apis/authentication.k8s.io/v1/tokenreviews"):
		err = errNotTheRelays
	case r.Context().Value(credentialKey{}) != nil:
		err = errNotTheRelays
	}
	if err != nil {
		return nil, drop(r, err)
	}
	h := withoutIdentity(r.Header)
	h[headerAuthorization] = []string{"Bearer " + token}
	return t.next.RoundTrip(withHeader(r, h))
}

// drop closes what a request that is not sent would have carried.
func drop(r *http.Request, err error) error {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return err
}

// withHeader copies r: a RoundTripper changes no request.
func withHeader(r *http.Request, h http.Header) *http.Request {
	c := *r
	c.Header = h
	return &c
}

// bounded cuts answers that are longer than any that is expected here.
type bounded struct {
	limit int64
	next  http.RoundTripper
}

// RoundTrip bounds the body of the answer.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		_ = res.Body.Close() // a raw connection, which no context ends
		return nil, nonsenseError("it switched protocols and was not asked to")
	}
	res.Body = http.MaxBytesReader(nil, res.Body, b.limit)
	return res, nil
}
