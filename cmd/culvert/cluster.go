package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/client/kube"
)

// cluster is a Kubernetes cluster as a kubeconfig leads to it.
type cluster struct {
	rest      *rest.Config
	api       *kube.API
	namespace string
	context   string                // empty in a pod, and if flags say it all
	entry     *clientcmdapi.Cluster // nil if there is none
	relay     kube.Relay            // once config has found it
	program   string                // what a person types
}

// openCluster reads kubeconfig and flags as kubectl does. It returns nil if there
// is no kubeconfig and it was not asked for one.
func openCluster(flags *kubeFlags, a *app, wanted bool) (*cluster, error) {
	loader := flags.loader()
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, &hintError{fmt.Errorf("kubeconfig: %w", err), "check --kubeconfig and KUBECONFIG"}
	}
	c := &cluster{context: raw.CurrentContext, program: displayName(a.name)}
	if flags.override.CurrentContext != "" {
		c.context = flags.override.CurrentContext
	}
	empty := clientcmdapi.IsConfigEmpty(&raw)
	switch {
	case empty && !wanted:
		if _, err := rest.InClusterConfig(); err != nil {
			return nil, nil //nolint:nilerr // not in a pod either
		}
	case c.context == "" && flags.override.ClusterInfo.Server == "" && flags.override.Context.Cluster == "":
		return nil, &hintError{
			errors.New("the kubeconfig has no current context"),
			"choose one with --context, or for good with: kubectl config use-context NAME",
		}
	}
	if c.rest, err = flags.config(); err != nil {
		return nil, &hintError{fmt.Errorf("kubeconfig: %w", err), "compare: kubectl config view"}
	}
	if c.namespace, _, err = loader.Namespace(); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if err := client.CheckNamespace(c.namespace); err != nil {
		return nil, err
	}
	c.entry = entryOf(&raw, c.context, flags)
	if c.api, err = kube.NewAPI(c.rest); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return c, nil
}

// entryOf returns the cluster entry in force, nil if a flag says another server.
func entryOf(raw *clientcmdapi.Config, context string, flags *kubeFlags) *clientcmdapi.Cluster {
	name := flags.override.Context.Cluster
	if ctx := raw.Contexts[context]; ctx != nil && name == "" {
		name = ctx.Cluster
	}
	if flags.override.ClusterInfo.Server != "" {
		return nil
	}
	return raw.Clusters[name]
}

// config finds the relay and returns the settings of a Client for it.
func (c *cluster) config(ctx context.Context, f *relayFlags, a *app) (client.Config, error) {
	if err := c.find(ctx, f); err != nil {
		return client.Config{}, err
	}
	cred, err := kube.NewCredential(c.rest)
	if errors.Is(err, kube.ErrImpersonate) {
		return client.Config{}, &hintError{
			fmt.Errorf("--as: %w", err),
			"leave out --as and the kubeconfig's as entry; to act as somebody else use a credential of his",
		}
	}
	if err != nil {
		return client.Config{}, fmt.Errorf("kubeconfig: %w", err)
	}
	base := f.tls(a.voice)
	base.ServerName = c.relay.ServerName
	if f.ca == "" && f.pin == "" {
		base.CAData = c.relay.CA
	}
	base.SystemRoots = f.ca == "" && f.pin == "" && len(base.CAData) == 0
	base.Certificate = func() *tls.Certificate { return certificate(cred, a.voice) }
	cfg := client.Config{
		Proxy: proxyFrom(a.env), Expired: cred.Expired,
		Token: func() (string, error) { return token(cred) },
	}
	if c.isRelay(f) && c.rest.Proxy != nil {
		cfg.Proxy = func(u *url.URL) (*url.URL, error) { return c.rest.Proxy(&http.Request{URL: u}) }
	}
	addrs := f.relays
	if len(addrs) == 0 {
		addrs = []string{c.relay.Addr}
	}
	for _, addr := range addrs {
		relay, err := relayAt(addr, base)
		if err != nil {
			return client.Config{}, err
		}
		cfg.Relays = append(cfg.Relays, relay)
	}
	return cfg, nil
}

// isRelay tells whether the kubeconfig's server is the relay to use.
func (c *cluster) isRelay(f *relayFlags) bool { return kube.IsRelay(c.entry) && len(f.relays) == 0 }

// find fills in the relay: that of the flags, else that of the kubeconfig, else
// that of the cluster. Flags that name a relay may leave its authority to the
// other two.
func (c *cluster) find(ctx context.Context, f *relayFlags) error {
	var err error
	switch {
	case len(f.relays) > 0 && (f.ca != "" || f.pin != ""):
		c.relay = kube.Relay{From: "--relay"}
	case kube.IsRelay(c.entry):
		if c.relay, err = c.own(); err != nil {
			return err
		}
	default:
		c.relay, err = kube.Find(ctx, c.api)
		if err == nil && c.relay.Addr == "" && len(f.relays) == 0 {
			err = fmt.Errorf("%w: %s has no address", kube.ErrNoRelay, c.relay.From)
		}
		if errors.Is(err, kube.ErrNoRelay) && len(f.relays) == 0 {
			return &noRelayError{err, c.program}
		}
	}
	if len(f.relays) > 0 {
		// Its authority may still be a public one, and its name is its own.
		c.relay.Addr, c.relay.ServerName, c.relay.From = f.relays[0], "", "--relay"
	}
	return nil
}

// own returns the relay that the kubeconfig's server is.
func (c *cluster) own() (kube.Relay, error) {
	if c.rest.Insecure {
		return kube.Relay{}, &hintError{
			errors.New("a relay that is not verified gets no credential"),
			"leave out --insecure-skip-tls-verify and make the context again with: " + c.program + " kubeconfig",
		}
	}
	ca := c.rest.CAData
	if len(ca) == 0 && c.rest.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(c.rest.CAFile); err != nil {
			return kube.Relay{}, fmt.Errorf("kubeconfig: %w", err)
		}
	}
	return kube.FromCluster(c.rest.Host, c.rest.ServerName, ca)
}

// noRelayError says in how many ways a relay can be named.
type noRelayError struct {
	err     error
	program string
}

func (e *noRelayError) Error() string { return e.err.Error() }
func (e *noRelayError) Unwrap() error { return e.err }

func (e *noRelayError) hint() string {
	return fmt.Sprintf("name it with --relay HOST:PORT or CULVERT_RELAY, use a context made by '%s kubeconfig --relay HOST:PORT', "+
		"or have relay.externalAddress set in the chart, which puts it into ConfigMap %s/%s",
		e.program, kube.RelayNamespace, kube.RelayConfigMap)
}

// token returns the user's token, or nothing if his certificate has to do.
func token(cred *kube.Credential) (string, error) {
	token, err := cred.Token()
	if err != nil || token != "" {
		return token, err
	}
	cert, err := cred.Certificate()
	if err == nil && cert == nil {
		err = errors.New("the kubeconfig's user has neither a token nor a client certificate")
	}
	return "", err
}

// certificate is shown where there is no token: one credential is enough, and a
// token needs no rights of the relay's.
func certificate(cred *kube.Credential, v *voice) *tls.Certificate {
	if token, err := cred.Token(); err != nil || token != "" {
		return nil // what is wrong is said when the token is shown
	}
	cert, err := cred.Certificate()
	if err != nil {
		v.say("warning: %v", err)
		return nil
	}
	return cert
}

// writable returns where changes to the kubeconfig go.
func writable(flags *kubeFlags) clientcmd.ConfigAccess {
	return flags.loader().ConfigAccess()
}
