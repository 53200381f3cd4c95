package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"
)

const (
	protoHTTP1 = "http/1.1"
	protoHTTP2 = "h2"
)

// sendAhead bounds what is kept of one answer, in bytes; net/http would keep 4 MiB.
const sendAhead = 512 << 10

// dialTimeout bounds a connection to the API server and its TLS.
const dialTimeout = 10 * time.Second

// newTransport makes connections to the API server on which the given protocols
// are spoken. It adds no credential, follows no proxy of the environment, and
// leaves bodies as they are.
func (k *Kube) newTransport(protocols ...string) *http.Transport {
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return k.dial(ctx, network, addr, protocols)
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ExpectContinueTimeout:  time.Second,
		// One connection carries many requests, so its death must be noticed. What
		// the API server may send ahead of a caller who does not read is memory.
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, MaxReceiveBufferPerStream: sendAhead,
		},
	}
	if slices.Contains(protocols, protoHTTP2) {
		t.ForceAttemptHTTP2 = true
	} else {
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{} // not nil: no HTTP/2
	}
	return t
}

// dial opens a connection to the API server. Its certificate must be for the
// name in the URL, whatever way the connection takes, and be signed by what the
// CA file holds now.
func (k *Kube) dial(ctx context.Context, network, addr string, protocols []string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	pool, err := k.authorities()
	if err != nil {
		return nil, err
	}
	var raw net.Conn
	if k.cfg.DialAPI != nil {
		raw, err = k.cfg.DialAPI(ctx)
	} else {
		raw, err = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext(ctx, network, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	conn := tls.Client(raw, &tls.Config{
		RootCAs: pool, ServerName: k.api.Hostname(), NextProtos: protocols, MinVersion: tls.VersionTLS12,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with the API server: %w", err)
	}
	return conn, nil
}

// authorities returns who may sign the API server's certificate; nil is the
// system's list.
func (k *Kube) authorities() (*x509.CertPool, error) {
	if k.cfg.CAFile == "" {
		return nil, nil //nolint:nilnil // that is how crypto/tls calls the system's
	}
	pem, err := os.ReadFile(k.cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read authority of the API server: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authority of the API server: no certificate in %s", k.cfg.CAFile)
	}
	return pool, nil
}
