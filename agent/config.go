package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/forward/tunnel"
)

// Config is what an Agent needs. Node, Relays, Pods and Identity must be set.
type Config struct {
	// Node is the name this agent claims; its credential must prove it: a relay
	// that knows the node by the credential refuses any other name.
	Node string

	// Relays are host:port, at most 128. The agent keeps a tunnel to each: to every
	// address if the host is a name, up to 64 of them and 128 of all names, and
	// follows what the name is resolved to. A relay that Proxy names a proxy for
	// gets one tunnel, since the proxy resolves the name.
	Relays []string

	// Resolve returns the addresses of a name; ctx, which it must obey, bounds it
	// to 5 s. nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Identity proves the name to a relay.
	Identity Identity

	// Pods are the pods of this node, the way to them, and the policy on it.
	Pods reach.Pods

	// APIServer is the address (host:port) of the cluster's API server, which
	// relays may then reach through this agent. They cannot name another one.
	// Empty: they may not.
	APIServer string

	// MaxAPIStreams bounds the streams to the API server at once. 0 means 256.
	MaxAPIStreams int

	// Version is shown to relays.
	Version string

	// Proxy returns the HTTP proxy for a URL, or nil for none. nil: no proxy.
	Proxy func(*url.URL) (*url.URL, error)

	// Log gets one line for each stream and each tunnel that ends. nil: none.
	Log *slog.Logger

	// Tunnel sets the limits of each session.
	Tunnel tunnel.Config

	// DialTimeout bounds one attempt at a relay. 0 means 10 s.
	DialTimeout time.Duration

	// MaxBackoff bounds the pause between attempts. 0 means 5 s.
	MaxBackoff time.Duration

	// OpenTimeout bounds reading Open, and then reaching the pod. 0 means 5 s.
	OpenTimeout time.Duration

	// DrainTimeout is how long running streams may go on after the end of
	// Run's context. 0 means 30 s.
	DrainTimeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Node == "":
		return c, errors.New("agent needs the name of its node")
	case len(c.Relays) == 0:
		return c, errors.New("agent needs at least one relay")
	case len(c.Relays) > maxKeepers:
		return c, fmt.Errorf("%d relays are named, and %d is the most: give them one name", len(c.Relays), maxKeepers)
	case c.Pods == nil || c.Identity == nil:
		return c, errors.New("agent needs a way to its pods and an identity")
	}
	seen := make(map[string]bool)
	for _, r := range c.Relays {
		if seen[r] {
			return c, fmt.Errorf("relay %s is named twice", r)
		}
		seen[r] = true
	}
	if c.MaxAPIStreams <= 0 {
		c.MaxAPIStreams = 256
	}
	setDefault(&c.DialTimeout, 10*time.Second)
	setDefault(&c.MaxBackoff, 5*time.Second)
	setDefault(&c.OpenTimeout, 5*time.Second)
	setDefault(&c.DrainTimeout, 30*time.Second)
	if c.Resolve == nil {
		c.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if c.Tunnel.Memory == nil {
		c.Tunnel.Memory = new(tunnel.Memory) // one for all sessions
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func setDefault(v *time.Duration, d time.Duration) {
	if *v <= 0 {
		*v = d
	}
}
