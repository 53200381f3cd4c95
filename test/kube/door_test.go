//go:build linux

package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kube"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
	"github.com/culvert-k8s/culvert/test/lab"
)

// noTunnels is a relay without agents.
type noTunnels struct{}

func (noTunnels) Dial(context.Context, relay.Call) (*relay.Link, error) {
	return nil, &stream.Error{Code: stream.AgentOffline, Text: "no agent"}
}

func (noTunnels) Reaches(node string) error {
	return &stream.Error{Code: stream.AgentOffline, Text: "no agent is connected for node " + node}
}

func (noTunnels) Draining() <-chan struct{} { return nil }

func (noTunnels) Permits(context.Context, relay.Identity, relay.Target, relay.Place) error {
	return nil
}

func (noTunnels) BeginSession(context.Context, relay.Identity) (end func(), err error) {
	return func() {}, nil
}

func (noTunnels) BeginRequest(context.Context, string, string) (end func(), err error) {
	return func() {}, nil
}

// door is a front on the relay host.
type door struct {
	*fixture
	server *httptest.Server
	dir    string
}

func openDoor(t *testing.T, f *fixture) *door {
	t.Helper()
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(f.c.CAFile())
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	k := f.kube(t, func(c *kube.Config) { c.Impersonate, c.ClientCA = true, func() *x509.CertPool { return pool } })
	l, err := f.c.Relay.Listen(net.JoinHostPort(f.c.Relay.Addr().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(k.Front(noTunnels{}, kubectl.New(kubectl.Config{})))
	_ = server.Listener.Close()
	server.Listener, server.EnableHTTP2 = l, true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return &door{fixture: f, server: server, dir: t.TempDir()}
}

// through writes a kubeconfig that leads through the front instead of straight to
// the API server.
func (d *door) through(t *testing.T, direct string) string {
	t.Helper()
	content, err := os.ReadFile(direct)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	config["clusters"] = []any{map[string]any{"name": "lab", "cluster": map[string]any{
		"server": d.server.URL, "tls-server-name": "example.com", // what the certificate of httptest is for
		"certificate-authority-data": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.Certificate().Raw}),
	}}}
	if content, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.dir, filepath.Base(direct))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// account returns kubeconfigs of a service account in dev: straight and through.
func (d *door) account(t *testing.T, name string) (direct, through string) {
	t.Helper()
	direct, err := d.c.TokenKubeconfig(name, d.fixture.account("dev", name))
	if err != nil {
		t.Fatal(err)
	}
	return direct, d.through(t, direct)
}

// printed is all that a user sees of a command.
type printed struct {
	out, err string
	code     int
}

// transports are the settings that make kubectl take one protocol or the other.
func transports() map[string][]string {
	return map[string][]string{
		"WebSocket": {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true", "KUBECTL_PORT_FORWARD_WEBSOCKETS=true"},
		"SPDY":      {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"},
	}
}

// kubectl runs kubectl on the client host to its end.
func (d *door) kubectl(t *testing.T, kubeconfig string, env []string, stdin string, args ...string) printed {
	t.Helper()
	var out bytes.Buffer
	command := d.c.KubectlCommand(kubeconfig, append([]string{"-n", "dev"}, args...)...)
	command.Env, command.Stdin, command.Stdout = append(command.Env, env...), strings.NewReader(stdin), &out
	p, err := d.c.Client.StartCommand(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	if err := p.Wait(ctx); err != nil && ctx.Err() != nil {
		t.Fatal(err)
	}
	return printed{out.String(), p.Text(lab.Stderr), p.ExitCode()}
}

// get asks through the front as somebody who may do everything.
func (d *door) get(t *testing.T, path string) (int, string) {
	t.Helper()
	conn := d.dial(t)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", path, d.fixture.account("dev", "operator"))
	var answer bytes.Buffer
	_, _ = answer.ReadFrom(conn)
	var code int
	if _, err := fmt.Sscanf(answer.String(), "HTTP/1.1 %d", &code); err != nil {
		t.Fatalf("%v: %s", err, answer.String())
	}
	return code, answer.String()
}

// dial opens a connection to the front from the client host.
func (d *door) dial(t *testing.T) net.Conn {
	t.Helper()
	raw, err := d.c.Client.Dial(t.Context(), d.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.SetDeadline(time.Now().Add(longEnough))
	pool := x509.NewCertPool()
	pool.AddCert(d.server.Certificate())
	return tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: "example.com", NextProtos: []string{"http/1.1"}})
}
