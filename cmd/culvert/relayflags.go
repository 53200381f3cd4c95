package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpproxy"
	"k8s.io/klog/v2"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// defaultPort is where a relay listens unless told otherwise.
const defaultPort = "7443"

// relayFlags say which relay, which cluster and as whom, for every command.
type relayFlags struct {
	relays  []string
	ca, pin string
	token   string
	kube    kubeFlags
	set     *pflag.FlagSet
}

func (f *relayFlags) register(root *cobra.Command) {
	p := root.PersistentFlags()
	p.StringSliceVar(&f.relays, "relay", nil, "relay to use, HOST[:PORT]; several are tried in random order")
	p.StringVar(&f.ca, "relay-ca", "", "file with the certificate of the relay's authority")
	p.StringVar(&f.pin, "relay-ca-pin", "", "pin of the relay's authority, sha256:HEX")
	p.StringVar(&f.token, "token-file", "", "file with the client token of a relay without Kubernetes")
	f.kube.register(p)
	f.set = p
	levels := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(levels)
	v := pflag.PFlagFromGoFlag(levels.Lookup("v"))
	v.Usage = "log what is asked of the API server, from 6 on; 0 is silent"
	p.AddFlag(v)
}

// clusterFlags are the flags that name a cluster, or who one is there.
func clusterFlags() []string {
	return []string{
		"kubeconfig", "context", "cluster", "user", "server", "token", "as", "as-group", "as-uid", "as-user-extra",
		"certificate-authority", "insecure-skip-tls-verify", "tls-server-name", "proxy-url",
	}
}

// clusterFlag returns the first flag given that names a cluster.
func (f *relayFlags) clusterFlag() string {
	for _, name := range clusterFlags() {
		if f.set.Changed(name) {
			return "--" + name
		}
	}
	return ""
}

// cert and key are the two flags that both ways of working have.
func (f *relayFlags) cert() string { return f.kube.override.AuthInfo.ClientCertificate }
func (f *relayFlags) key() string  { return f.kube.override.AuthInfo.ClientKey }

// access is a way to a relay.
type access struct {
	client    client.Config
	namespace string
	cluster   *cluster // nil for a relay without Kubernetes
}

// access decides between the two ways of working, as the help text says it.
func (f *relayFlags) access(ctx context.Context, a *app) (*access, error) {
	c, err := f.cluster(a)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return f.standalone(a)
	}
	if err := f.checkRelay(a.env); err != nil {
		return nil, err
	}
	cfg, err := c.config(ctx, f, a)
	if err != nil {
		return nil, err
	}
	return &access{client: cfg, namespace: c.namespace, cluster: c}, nil
}

// cluster returns the cluster to work with, nil if there is none: the credential
// given is for a relay without Kubernetes, or there is no kubeconfig.
func (f *relayFlags) cluster(a *app) (*cluster, error) {
	named := f.clusterFlag()
	switch {
	case f.token != "" && named != "":
		return nil, &usageError{"--token-file is for a relay without Kubernetes and excludes " + named}
	case f.token != "":
		return nil, nil
	case named == "" && (f.cert() != "" || a.env("CULVERT_TOKEN_FILE") != ""):
		return nil, nil
	}
	return openCluster(&f.kube, a, named != "")
}

// given reports whether a relay was named at all.
func (f *relayFlags) given(env func(string) string) bool {
	return len(f.relays) > 0 || env("CULVERT_RELAY") != ""
}

// standalone turns flags and environment into the settings of a Client. A flag
// wins over the environment.
func (f *relayFlags) standalone(a *app) (*access, error) {
	if err := f.fill(a.env); err != nil {
		return nil, err
	}
	namespace := f.kube.override.Context.Namespace
	if !f.set.Changed("namespace") {
		namespace = "default"
	}
	if err := client.CheckNamespace(namespace); err != nil {
		return nil, err
	}
	cfg := client.Config{Proxy: proxyFrom(a.env)}
	base := f.tls(a.voice)
	base.CertFile, base.KeyFile = f.cert(), f.key()
	base.SystemRoots = f.ca == "" && f.pin == ""
	for _, s := range f.relays {
		relay, err := relayAt(s, base)
		if err != nil {
			return nil, err
		}
		cfg.Relays = append(cfg.Relays, relay)
	}
	if f.token != "" {
		if _, err := identity.LoadToken(f.token); err != nil {
			return nil, &hintError{err, "the relay wrote the token to client-token in its state directory"}
		}
		cfg.Token = func() (string, error) { return identity.LoadToken(f.token) }
	}
	return &access{client: cfg, namespace: namespace}, nil
}

// checkRelay takes the relay from the environment if no flag names one, and
// refuses what does not go together.
func (f *relayFlags) checkRelay(env func(string) string) error {
	if f.ca != "" && f.pin != "" {
		return &usageError{"--relay-ca and --relay-ca-pin exclude each other"}
	}
	if f.token != "" && f.cert() != "" {
		return &usageError{"--token-file and --client-certificate exclude each other"}
	}
	if (f.cert() == "") != (f.key() == "") {
		return &usageError{"--client-certificate and --client-key go together"}
	}
	if len(f.relays) == 0 {
		f.relays = strings.FieldsFunc(env("CULVERT_RELAY"), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(f.relays) > 0 && f.ca == "" && f.pin == "" {
		// The pin says more: it stays good when the file is replaced.
		if f.pin = env("CULVERT_RELAY_CA_PIN"); f.pin == "" {
			f.ca = env("CULVERT_RELAY_CA")
		}
	}
	return nil
}

// fill is checkRelay for a relay without Kubernetes, which cannot be found.
func (f *relayFlags) fill(env func(string) string) error {
	if err := f.checkRelay(env); err != nil {
		return err
	}
	if len(f.relays) == 0 {
		return &hintError{errors.New("no relay given"), "name one with --relay HOST:PORT or in CULVERT_RELAY, or give a kubeconfig"}
	}
	if f.token == "" && f.cert() == "" {
		f.token = env("CULVERT_TOKEN_FILE")
	}
	if f.token == "" && f.cert() == "" {
		return &hintError{
			errors.New("no credential given"),
			"give --token-file, CULVERT_TOKEN_FILE, --client-certificate with --client-key, or a kubeconfig",
		}
	}
	return nil
}

// tls returns what the flags say about how to know the relay.
func (f *relayFlags) tls(v *voice) identity.ClientConfig {
	return identity.ClientConfig{
		ALPN: stream.ALPNClient, CAFile: f.ca, CAPin: f.pin,
		Report: func(err error) { v.say("warning: %v", err) },
	}
}

// relayAt makes the settings for one address. ServerName is set if it is empty.
func relayAt(addr string, cfg identity.ClientConfig) (client.Relay, error) {
	host, port, err := splitRelay(addr)
	if err != nil {
		return client.Relay{}, err
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	tc, err := identity.ClientTLS(cfg)
	if err != nil {
		return client.Relay{}, err
	}
	return client.Relay{Addr: net.JoinHostPort(host, port), TLS: tc}, nil
}

// splitRelay reads HOST, HOST:PORT, an IPv6 address with or without brackets.
func splitRelay(s string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), defaultPort
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			host = ""
		}
	}
	if host == "" || strings.ContainsAny(s, "/ ") || strings.ContainsAny(host, "[]") {
		return "", "", &hintError{fmt.Errorf("relay %q: want HOST or HOST:PORT", s), "name one with --relay HOST:PORT or in CULVERT_RELAY"}
	}
	if _, err := client.ParsePort(port); err != nil {
		return "", "", fmt.Errorf("relay %q: %w", s, err)
	}
	return host, port, nil
}

// proxyFrom reads the usual variables, in upper or lower case.
func proxyFrom(env func(string) string) func(*url.URL) (*url.URL, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := env(n); v != "" {
				return v
			}
		}
		return ""
	}
	cfg := httpproxy.Config{
		HTTPProxy:  first("HTTP_PROXY", "http_proxy"),
		HTTPSProxy: first("HTTPS_PROXY", "https_proxy"),
		NoProxy:    first("NO_PROXY", "no_proxy"),
	}
	return cfg.ProxyFunc()
}
