package kube

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/client-go/rest"
)

// ErrImpersonate means that the user asked to act as somebody else.
var ErrImpersonate = errors.New("a relay acts with the caller's own credential, not as somebody else")

// Credential is what a kubeconfig's user shows: a bearer token, wherever it
// comes from, or a client certificate. It is client-go that gets it, so tokens in
// files and from programs are renewed as in kubectl.
//
// Methods may be called from any goroutine.
type Credential struct {
	cfg   *rest.Config
	tls   *tls.Config
	stale atomic.Bool

	mu      sync.Mutex // held while a token is got: one program at a time asks the person
	last    recorder
	wrapped http.RoundTripper
}

// recorder is the end of a chain of transports: it keeps what they put into a
// request and answers as it is told.
type recorder struct {
	header atomic.Pointer[string]
	status atomic.Int64
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	header := req.Header.Get("Authorization")
	r.header.Store(&header)
	return &http.Response{
		StatusCode: int(r.status.Load()), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), Request: req,
	}, nil
}

// NewCredential returns the credential in cfg. It runs no program yet.
func NewCredential(cfg *rest.Config) (*Credential, error) {
	as := cfg.Impersonate
	if as.UserName != "" || as.UID != "" || len(as.Groups) > 0 || len(as.Extra) > 0 {
		return nil, ErrImpersonate
	}
	c := &Credential{cfg: cfg}
	var err error
	if c.wrapped, err = rest.HTTPWrappersForConfig(cfg, &c.last); err != nil {
		return nil, err
	}
	if c.tls, err = rest.TLSConfigFor(cfg); err != nil {
		return nil, err
	}
	return c, nil
}

// Token returns the bearer token as it is now, empty if the user has none. It may
// run the program that the kubeconfig names, which may ask the person.
func (c *Credential) Token() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale.Swap(false) {
		if err := c.renew(); err != nil {
			return "", err
		}
	}
	header, err := c.ask(http.StatusOK)
	if err != nil || header == "" {
		return "", err
	}
	token, bearer := strings.CutPrefix(header, "Bearer ")
	if !bearer {
		return "", errors.New("the user has a password, which no relay takes: use a token or a client certificate")
	}
	return token, nil
}

// Expired has the next Token be another one, if there is a way to get one.
func (c *Credential) Expired() { c.stale.Store(true) }

// renew does what a server does to a token that has run out, so that the program
// that made it makes another one, and forgets what was read from a file.
func (c *Credential) renew() error {
	if _, err := c.ask(http.StatusUnauthorized); err != nil {
		return err
	}
	wrapped, err := rest.HTTPWrappersForConfig(c.cfg, &c.last)
	if err == nil {
		c.wrapped = wrapped
	}
	return err
}

func (c *Credential) ask(status int64) (header string, err error) {
	c.last.status.Store(status)
	c.last.header.Store(nil)
	req, err := http.NewRequest(http.MethodGet, "https://relay.invalid/", http.NoBody) //nolint:noctx // it goes nowhere
	if err != nil {
		return "", err
	}
	resp, err := c.wrapped.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("get the user's token: %w", err)
	}
	_ = resp.Body.Close() // empty
	if h := c.last.header.Load(); h != nil {
		return *h, nil
	}
	return "", nil
}

// Certificate returns the client certificate as it is now, nil if the user has
// none.
func (c *Credential) Certificate() (*tls.Certificate, error) {
	if c.tls == nil {
		return nil, nil
	}
	if len(c.tls.Certificates) > 0 {
		return &c.tls.Certificates[0], nil
	}
	if c.tls.GetClientCertificate == nil {
		return nil, nil
	}
	cert, err := c.tls.GetClientCertificate(new(tls.CertificateRequestInfo))
	if err != nil || cert == nil || len(cert.Certificate) == 0 {
		return nil, err
	}
	return cert, nil
}
