package connect

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// maxProxyAnswer bounds the header of a proxy's answer, in bytes.
const maxProxyAnswer = 64 << 10

// reach connects to a relay, directly or through the HTTP proxy that Dialer.Proxy
// names for it.
func (d *Dialer) reach(ctx context.Context, relay string) (net.Conn, error) {
	proxy, err := d.proxyFor(relay)
	if err != nil {
		return nil, fmt.Errorf("find proxy: %w", err)
	}
	var nd net.Dialer
	if proxy == nil {
		conn, err := nd.DialContext(ctx, "tcp", cmp.Or(d.Addr, relay))
		return conn, because(ctx, err)
	}
	conn, err := dialProxy(ctx, &nd, proxy)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", proxy.Redacted(), because(ctx, err))
	}
	if err := within(ctx, conn, func() error { return askProxy(conn, proxy, relay) }); err != nil {
		conn.Close() // the refusal is what matters
		return nil, fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)
	}
	return conn, nil
}

// because adds to err why ctx has ended, if it has: the net package knows only
// that it did.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

func (d *Dialer) proxyFor(relay string) (*url.URL, error) {
	if d.Proxy == nil {
		return nil, nil //nolint:nilnil // no proxy is a good answer
	}
	return d.Proxy(&url.URL{Scheme: "https", Host: relay})
}

func dialProxy(ctx context.Context, d *net.Dialer, proxy *url.URL) (net.Conn, error) {
	host, port := proxy.Hostname(), proxy.Port()
	switch proxy.Scheme {
	case "http":
		if port == "" {
			port = "80"
		}
		return d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	case "https":
		if port == "" {
			port = "443"
		}
		td := tls.Dialer{NetDialer: d, Config: &tls.Config{MinVersion: tls.VersionTLS12}}
		return td.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	}
	return nil, fmt.Errorf("scheme %q is not supported, http and https are", proxy.Scheme)
}

func askProxy(conn net.Conn, proxy *url.URL, target string) error {
	req := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Opaque: target},
		Host:   target,
		Header: make(http.Header),
	}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		secret := base64.StdEncoding.EncodeToString([]byte(u.Username() + ":" + password))
		req.Header.Set("Proxy-Authorization", "Basic "+secret)
	}
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("ask for %s: %w", target, err)
	}
	br := bufio.NewReader(io.LimitReader(conn, maxProxyAnswer))
	// The body is what comes through the tunnel, or dies with conn: it is not closed.
	resp, err := http.ReadResponse(br, req) //nolint:bodyclose // see above
	if err != nil {
		return fmt.Errorf("ask for %s: %w", target, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask for %s: %s", target, resp.Status)
	}
	// The relay speaks only when it is spoken to.
	if br.Buffered() > 0 {
		return errors.New("it sent data before the tunnel was used")
	}
	return nil
}
