package kube

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"golang.org/x/time/rate"
)

// Kube asks an API server. Make one with New, and Close it.
type Kube struct {
	cfg     Config
	api     *url.URL
	metrics *metrics
	calls   *calls
	agents  *agents

	// pass and upgrade reach the API server with the credential of the request's
	// context (withCredential). Through upgrade nothing but HTTP/1.1 is spoken.
	pass, upgrade http.RoundTripper
	transports    []*http.Transport

	names     *memo[[sha256.Size]byte, named]
	rights    *memo[right, access]
	places    *memo[spot, found]
	shares    *shares
	strangers *turns
	watches   sync.WaitGroup
}

// New makes a Kube. It does not talk to the API server yet.
func New(cfg Config) (*Kube, error) {
	api, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("set up kubernetes: %w", err)
	}
	cfg = cfg.withDefaults()
	k := &Kube{
		cfg: cfg, api: api, metrics: newMetrics(),
		names:     newMemo[[sha256.Size]byte, named](cfg.MaxRemembered),
		rights:    newMemo[right, access](cfg.MaxRemembered),
		places:    newMemo[spot, found](cfg.MaxRemembered),
		shares:    newShares(cfg.CallerRate, cfg.CallerBurst, cfg.MaxRemembered),
		strangers: newTurns(cfg.ReviewRate, cfg.ReviewBurst),
	}
	// What passes through must not make the relay's own questions wait.
	own := &ownToken{file: cfg.TokenFile}
	asking, passing, upgrading := k.newTransport(protoHTTP2, protoHTTP1), k.newTransport(protoHTTP2, protoHTTP1), k.newTransport(protoHTTP1)
	k.transports = []*http.Transport{asking, passing, upgrading}
	k.pass = &asCaller{host: api.Host, path: api.Path, own: own, next: passing}
	k.upgrade = &asCaller{host: api.Host, path: api.Path, own: own, next: upgrading}
	if k.calls, err = newCalls(&cfg, api, own, asking, k.metrics); err != nil {
		return nil, fmt.Errorf("set up kubernetes: %w", err)
	}
	k.agents = &agents{
		audience: cfg.AgentAudience, calls: k.calls, metrics: k.metrics,
		reviewEvery: cfg.ReviewEvery, reviewTTL: cfg.ReviewTTL,
		knocking: newTurns(cfg.AgentRate, cfg.AgentBurst),
		standing: rate.NewLimiter(rate.Limit(cfg.AgentRate), cfg.AgentBurst),
		verdicts: newMemo[[sha256.Size]byte, verdict](cfg.MaxRemembered),
	}
	if namespace, name, err := splitAccount(cfg.AgentAccount); err == nil {
		k.agents.user = "system:serviceaccount:" + namespace + ":" + name
	}
	k.metrics.remembers("agents", k.agents.verdicts.len, k.agents.verdicts.lookups)
	k.metrics.remembers("callers", k.names.len, k.names.lookups)
	k.metrics.remembers("rights", k.rights.len, k.rights.lookups)
	k.metrics.remembers("places", k.places.len, k.places.lookups)
	return k, nil
}

// Close gives back the connections to the API server that nobody uses. It waits
// for the watches, so their contexts must have ended. It may be called again.
func (k *Kube) Close() error {
	k.watches.Wait()
	for _, t := range k.transports {
		t.CloseIdleConnections()
	}
	return nil
}
