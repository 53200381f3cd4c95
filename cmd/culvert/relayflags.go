package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpproxy"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// defaultPort is where a relay listens unless told otherwise.
const defaultPort = "7443"

// relayFlags say which relay and as whom, for every command.
type relayFlags struct {
	relays    []string
	ca, pin   string
	token     string
	cert, key string
	namespace string
}

func (f *relayFlags) register(root *cobra.Command) {
	p := root.PersistentFlags()
	p.StringSliceVar(&f.relays, "relay", nil, "relay to use, HOST[:PORT]; several are tried in random order")
	p.StringVar(&f.ca, "relay-ca", "", "file with the certificate of the relay's authority")
	p.StringVar(&f.pin, "relay-ca-pin", "", "pin of the relay's authority, sha256:HEX")
	p.StringVar(&f.token, "token-file", "", "file with the client token")
	p.StringVar(&f.cert, "client-certificate", "", "file with a client certificate, in place of a token")
	p.StringVar(&f.key, "client-key", "", "file with the key of the client certificate")
	p.StringVarP(&f.namespace, "namespace", "n", "default", "namespace of the pod")
}

// given reports whether a relay was named at all.
func (f *relayFlags) given(env func(string) string) bool {
	return len(f.relays) > 0 || env("CULVERT_RELAY") != ""
}

// config turns flags and environment into the settings of a Client. A flag
// wins over the environment.
func (f *relayFlags) config(a *app) (client.Config, error) {
	if err := f.fill(a.env); err != nil {
		return client.Config{}, err
	}
	if err := client.CheckNamespace(f.namespace); err != nil {
		return client.Config{}, err
	}
	cfg := client.Config{Proxy: proxyFrom(a.env)}
	for _, s := range f.relays {
		relay, err := f.relay(s, a.voice)
		if err != nil {
			return client.Config{}, err
		}
		cfg.Relays = append(cfg.Relays, relay)
	}
	if f.token != "" {
		if _, err := identity.LoadToken(f.token); err != nil {
			return client.Config{}, &hintError{err, "the relay wrote the token to client-token in its state directory"}
		}
		cfg.Token = func() (string, error) { return identity.LoadToken(f.token) }
	}
	return cfg, nil
}

// fill takes from the environment what no flag gave, and refuses what does not
// go together.
func (f *relayFlags) fill(env func(string) string) error {
	if f.ca != "" && f.pin != "" {
		return &usageError{"--relay-ca and --relay-ca-pin exclude each other"}
	}
	if f.token != "" && f.cert != "" {
		return &usageError{"--token-file and --client-certificate exclude each other"}
	}
	if (f.cert == "") != (f.key == "") {
		return &usageError{"--client-certificate and --client-key go together"}
	}
	if len(f.relays) == 0 {
		f.relays = strings.FieldsFunc(env("CULVERT_RELAY"), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(f.relays) == 0 {
		return &hintError{errors.New("no relay given"), "name one with --relay HOST:PORT or in CULVERT_RELAY"}
	}
	if f.ca == "" && f.pin == "" {
		// The pin says more: it stays good when the file is replaced.
		if f.pin = env("CULVERT_RELAY_CA_PIN"); f.pin == "" {
			f.ca = env("CULVERT_RELAY_CA")
		}
	}
	if f.token == "" && f.cert == "" {
		f.token = env("CULVERT_TOKEN_FILE")
	}
	if f.token == "" && f.cert == "" {
		return &hintError{errors.New("no credential given"), "give --token-file, CULVERT_TOKEN_FILE, or --client-certificate with --client-key"}
	}
	return nil
}

// relay makes the settings for one address.
func (f *relayFlags) relay(addr string, v *voice) (client.Relay, error) {
	host, port, err := splitRelay(addr)
	if err != nil {
		return client.Relay{}, err
	}
	tc, err := identity.ClientTLS(identity.ClientConfig{
		ServerName:  host,
		ALPN:        stream.ALPNClient,
		CAFile:      f.ca,
		CAPin:       f.pin,
		SystemRoots: f.ca == "" && f.pin == "",
		CertFile:    f.cert,
		KeyFile:     f.key,
		Report:      func(err error) { v.say("warning: %v", err) },
	})
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
