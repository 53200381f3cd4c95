package kube

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
)

// Config is what a Kube needs. APIServer must be set, and TokenFile for agents
// and for impersonation; every other zero value works.
type Config struct {
	// APIServer is the URL of the API server, https only, such as
	// https://10.96.0.1:443. A path in it is kept.
	APIServer string

	// CAFile holds the PEM certificates that the API server's must be signed by.
	// It is read for every new connection. Empty: the system's.
	CAFile string

	// TokenFile holds the relay's own bearer token. It is read again when it is
	// older than some seconds, as kubelet replaces it.
	TokenFile string

	// DialAPI opens raw connections to the API server. The name in the URL is
	// still what its certificate must be for. nil: TCP to the host in the URL.
	DialAPI func(context.Context) (net.Conn, error)

	// UserAgent is shown to the API server. Empty: "culvert-relay".
	UserAgent string

	// AgentAccount is the service account that agents run as, NAMESPACE/NAME.
	// Empty: no agent is taken.
	AgentAccount string

	// AgentAudience is what an agent's token must be for. Empty: "culvert-relay".
	AgentAudience string

	// Impersonate allows to act at the API server in the name of a caller who
	// proved who he is to the relay, with the relay's own rights to do so.
	Impersonate bool

	// ClientCA returns the authorities whose client certificates name a user, as
	// kube-apiserver's --client-ca-file. Needs Impersonate. Asked for each
	// certificate; nil, or the answer nil: none.
	ClientCA func() *x509.CertPool

	// RequestHeaderCA returns the authorities of front proxies, which name users in
	// X-Remote-User and its like; likewise. Needs Impersonate and
	// RequestHeaderNames.
	RequestHeaderCA func() *x509.CertPool

	// RequestHeaderNames are the common names that a front proxy's certificate
	// may have. An empty list lets nobody in, other than kube-apiserver's.
	RequestHeaderNames []string

	// AllowHostNetwork lets callers reach pods on their node's own network, where
	// localhost is the node's.
	AllowHostNetwork bool

	// CallTimeout bounds each request to the API server. 0 means 5 s.
	CallTimeout time.Duration

	// MaxInFlight bounds the requests of this package that wait for the API
	// server at once, of callers and of agents each. 0 means 128.
	MaxInFlight int

	// ReviewRate and ReviewBurst bound how often a second the API server is asked
	// who a caller is that is not known yet, in turns by where they come from. 0 means
	// 50 and 100.
	ReviewRate, ReviewBurst int

	// AgentRate and AgentBurst bound how often a second an agent's token that is not
	// known yet is shown to the API server, in turns likewise, and how often one of an agent that is
	// connected. A relay that starts again has all its agents at its door: what is
	// above the burst is in after so many seconds. 0 means 200, and twice AgentRate.
	AgentRate, AgentBurst int

	// CallerRate and CallerBurst bound how often a second is asked for one
	// caller, and a tenth more for watches of who leaves them no room. 0 means 20
	// and 50.
	CallerRate, CallerBurst int

	// ReviewTTL is for how long an agent's token that was good may be taken
	// again without a question. 0 means 1 min; up to a tenth less is used.
	ReviewTTL time.Duration

	// ReviewEvery is how often the token of an agent that stays is reviewed
	// again. 0 means 10 min; up to a fifth less is used.
	ReviewEvery time.Duration

	// CallerTTL is for how long a caller's name is remembered. 0 means 10 s.
	CallerTTL time.Duration

	// AccessTTL is for how long a permission is remembered, and so how long a
	// revoked one may still be used. 0 means 10 s.
	AccessTTL time.Duration

	// DenialTTL is for how long a refusal is remembered. 0 means 2 s.
	DenialTTL time.Duration

	// PlaceTTL is for how long the place of a pod is remembered. 0 means 5 s.
	PlaceTTL time.Duration

	// MaxRemembered bounds the answers of each kind that are remembered.
	// 0 means 10,000.
	MaxRemembered int

	// WatchEvery is how often a session that was let in is looked at again.
	// 0 means 10 s; up to a fifth less is used.
	WatchEvery time.Duration

	// WatchGrace is for how long a pod may be gone, or over, before the sessions
	// to it are. 0 means 30 s.
	WatchGrace time.Duration

	// Audit gets a record of each request that is refused before it asks for a
	// connection. nil: none.
	Audit *audit.Log

	// Log gets what an operator should see. nil: none.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.UserAgent == "" {
		c.UserAgent = "culvert-relay"
	}
	if c.AgentAudience == "" {
		c.AgentAudience = "culvert-relay"
	}
	setDefault(&c.CallTimeout, 5*time.Second)
	setDefault(&c.MaxInFlight, 128)
	setDefault(&c.ReviewRate, 50)
	setDefault(&c.ReviewBurst, 100)
	setDefault(&c.AgentRate, 200)
	setDefault(&c.AgentBurst, 2*c.AgentRate)
	setDefault(&c.CallerRate, 20)
	setDefault(&c.CallerBurst, 50)
	setDefault(&c.ReviewTTL, time.Minute)
	setDefault(&c.ReviewEvery, 10*time.Minute)
	setDefault(&c.CallerTTL, 10*time.Second)
	setDefault(&c.AccessTTL, 10*time.Second)
	setDefault(&c.DenialTTL, 2*time.Second)
	setDefault(&c.PlaceTTL, 5*time.Second)
	setDefault(&c.MaxRemembered, 10000)
	setDefault(&c.WatchEvery, 10*time.Second)
	setDefault(&c.WatchGrace, 30*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// check returns what is wrong with c and the parsed URL of the API server.
func (c *Config) check() (*url.URL, error) {
	api, err := url.Parse(c.APIServer)
	if err != nil {
		return nil, fmt.Errorf("url of the API server: %w", err)
	}
	if api.Scheme != "https" || api.Host == "" || api.User != nil || api.RawQuery != "" || api.Fragment != "" {
		return nil, fmt.Errorf("url of the API server %q: want https://HOST[:PORT][/PATH], since tokens are sent there", api.Redacted())
	}
	if _, _, err := splitAccount(c.AgentAccount); c.AgentAccount != "" && err != nil {
		return nil, err
	}
	switch {
	case !c.Impersonate && (c.ClientCA != nil || c.RequestHeaderCA != nil):
		return nil, errors.New("client certificates and front-proxy headers are judged here, so they need impersonation: allow it or take the authority away")
	case c.RequestHeaderCA != nil && len(c.RequestHeaderNames) == 0:
		return nil, errors.New("front-proxy headers need the common names that may send them")
	case c.TokenFile == "" && (c.AgentAccount != "" || c.Impersonate):
		return nil, errors.New("agents and impersonation need a token of the relay's own: name its file")
	}
	return api, nil
}

// splitAccount splits NAMESPACE/NAME.
func splitAccount(s string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.ContainsAny(name, "/:") || strings.Contains(namespace, ":") {
		return "", "", fmt.Errorf("service account %q: want NAMESPACE/NAME", s)
	}
	return namespace, name, nil
}
