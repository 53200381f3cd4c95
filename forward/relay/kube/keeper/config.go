package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says where the certificates are and whom they are for. APIServer,
// TokenFile, Secret and Advertise must be set; every other zero value works.
type Config struct {
	// APIServer is the URL of the API server; https only.
	APIServer string

	// CAFile holds the PEM certificates that the API server's must be signed by.
	// Empty: the system's.
	CAFile string

	// TokenFile holds the relay's own bearer token; it is read again from time to
	// time. It needs get and update on the Secret and the ConfigMaps.
	TokenFile string

	// DialAPI opens raw connections to the API server. The name in the URL is still
	// what its certificate must be for. nil: TCP to the host in the URL.
	DialAPI func(context.Context) (net.Conn, error)

	// Secret holds the certificates. It must exist, and may be empty.
	Secret Name

	// Publish are the ConfigMaps that get the authorities, under the key ca.crt.
	// They must exist; what else is in them is left alone.
	Publish []Name

	// Advertise lists the names under which the relay is dialled: host, host:port
	// or IP literals. They go into the serving certificate beside localhost,
	// 127.0.0.1 and ::1. 1 to 100.
	Advertise []string

	// PollEvery is how often the Secret is looked at. 0 means 1 min; a fifth more
	// or less is used. It is also the longest pause between attempts that fail.
	PollEvery time.Duration

	// Overlap is for how long a new authority is only announced before the relay
	// shows a certificate of it. 0 means 24 h.
	Overlap time.Duration

	// CallTimeout bounds each request to the API server. 0 means 10 s.
	CallTimeout time.Duration

	// Log gets what an operator should see; no keys. nil: none.
	Log *slog.Logger

	// wrap stands between the client and the network, in tests.
	wrap func(http.RoundTripper) http.RoundTripper
}

func (c Config) withDefaults() Config {
	setDefault(&c.PollEvery, time.Minute)
	setDefault(&c.Overlap, 24*time.Hour)
	setDefault(&c.CallTimeout, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault(v *time.Duration, d time.Duration) {
	if *v <= 0 {
		*v = d
	}
}

func (c *Config) check() error {
	api, err := url.Parse(c.APIServer)
	if err != nil {
		return fmt.Errorf("url of the API server: %w", err)
	}
	switch {
	case api.Scheme != "https" || api.Host == "" || api.User != nil:
		return fmt.Errorf("url of the API server %q: want https://HOST[:PORT], since a token is sent there", api.Redacted())
	case c.TokenFile == "":
		return errors.New("no token file of the relay's own")
	case c.Secret == Name{}:
		return errors.New("no Secret given")
	case len(c.Advertise) == 0:
		return errors.New("no name to advertise: a certificate for nobody's dial is of no use")
	}
	return nil
}

// Name is the name of an object in a namespace.
type Name struct{ Namespace, Name string }

// String returns NAMESPACE/NAME.
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// ParseName reads NAMESPACE/NAME.
func ParseName(s string) (Name, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || !validName(namespace, 63) || !validName(name, 253) {
		return Name{}, fmt.Errorf("%q is not of the form NAMESPACE/NAME", s)
	}
	return Name{Namespace: namespace, Name: name}, nil
}

// validName accepts DNS subdomains (RFC 1123), which is all that can become a
// part of a path to the API server.
func validName(s string, limit int) bool {
	if s == "" || len(s) > limit || strings.Trim(s, "-.") != s {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}
