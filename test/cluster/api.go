//go:build linux

package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// maxAnswer bounds what is read of an answer of the API server.
const maxAnswer = 32 << 20

// StatusError is an answer of the API server other than success.
type StatusError struct {
	// Code is the HTTP status.
	Code int
	// Text is the beginning of the answer.
	Text string
}

// Error returns status and text.
func (e *StatusError) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Text) }

// newAPIClient makes a client of the API server that is at the client host.
func newAPIClient(from *lab.Host, ca *authority, admin keyPair) (*http.Client, error) {
	certificate, err := tls.X509KeyPair(admin.cert, admin.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.parent)
	return &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return from.Dial(ctx, address) },
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2: true,
	}}, nil
}

// Do makes one request to the API server as an administrator, with in as JSON
// unless it is nil, and decodes the answer into out unless that is nil. An answer
// other than 2xx is a *StatusError.
func (c *Cluster) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		content, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Server()+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.api.Do(req)
	if err != nil {
		return err // names method and address itself
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode/100 != 2 {
		err = &StatusError{Code: resp.StatusCode, Text: fmt.Sprintf("%.500s", content)}
	}
	if err == nil && out != nil {
		err = json.Unmarshal(content, out)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// create makes an object unless it is there already.
func (c *Cluster) create(ctx context.Context, path string, object any) error {
	err := c.Do(ctx, http.MethodPost, path, object, nil)
	var status *StatusError
	if errors.As(err, &status) && status.Code == http.StatusConflict {
		return nil
	}
	return err
}

// Await repeats try until it succeeds or ctx ends, or one of the daemons ends:
// then there is no point in waiting.
func Await(ctx context.Context, what string, try func(context.Context) error, daemons ...*Daemon) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		for _, d := range daemons {
			if ended := d.ended(); ended != nil {
				return fmt.Errorf("wait for %s: %w", what, ended)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
