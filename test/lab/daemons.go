//go:build linux

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// daemon is a program of the product that says over HTTP when it is ready.
type daemon struct {
	// Host is the host that it runs on.
	Host *Host
	// Process is the one that is running, or ran last.
	Process *Process
	// StateDir outlives the process.
	StateDir string

	binary string
	label  string // empty: that of the binary
	args   []string
	health string // address of its health endpoints
	wrap   func(host string, command Command) Command
}

// Args returns its command line without the program, for a test that wants to
// start it by other means.
func (d *daemon) Args() []string { return append([]string(nil), d.args...) }

// StateFile returns the path of a file in its state directory.
func (d *daemon) StateFile(name string) string { return filepath.Join(d.StateDir, name) }

// Start starts it, after it was stopped or killed, and waits until it is ready.
func (d *daemon) Start(ctx context.Context) error {
	if err := d.launch(); err != nil {
		return err
	}
	return d.awaitReady(ctx)
}

// launch starts the process, which lives until it is stopped or the network closed.
func (d *daemon) launch() error {
	command := Command{Path: d.binary, Args: d.args, Env: []string{quickExit}, Label: d.label}
	if d.wrap != nil {
		command.Label = cmp.Or(d.label, filepath.Base(d.binary))
		command = d.wrap(d.Host.Name(), command)
	}
	p, err := d.Host.StartCommand(context.Background(), command)
	if err != nil {
		return err
	}
	d.Process = p
	return nil
}

// awaitReady waits until /readyz says yes.
func (d *daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		status, body, err := d.Get(ctx, "/readyz")
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-d.Process.Done():
			return fmt.Errorf("%s ended before it was ready: %w%s",
				d.Process.label, errOrNil(d.Process), d.Process.log.tail(10))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: status %d, %q, %w%s",
				d.Process.label, context.Cause(ctx), status, body, err, d.Process.log.tail(10))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// errEnded is the reason of a process that ended with exit code 0.
var errEnded = errors.New("exit code 0")

func errOrNil(p *Process) error {
	if err := p.exitError(); err != nil {
		return err
	}
	return errEnded
}

// Stop asks it to end and waits up to grace, then kills it. The error is that of
// Process.Stop.
func (d *daemon) Stop(grace time.Duration) error { return d.Process.Stop(grace) }

// Get asks one of its health endpoints, for example "/metrics".
func (d *daemon) Get(ctx context.Context, path string) (status int, body string, err error) {
	return d.Host.HTTPGet(ctx, "http://"+d.health+path)
}

// HTTPGet makes one HTTP request from inside the namespace, to a literal address.
func (s *Namespace) HTTPGet(ctx context.Context, url string) (status int, body string, err error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return s.Dial(ctx, address)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", fmt.Errorf("get %s in %s: %w", url, s.label, err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", fmt.Errorf("get %s in %s: %w", url, s.label, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return 0, "", fmt.Errorf("get %s in %s: %w", url, s.label, err)
	}
	return resp.StatusCode, string(text), nil
}

// Relay is the relay of a cluster.
type Relay struct{ daemon }

func newRelay(c *Cluster, cfg ClusterConfig) *Relay {
	host := c.Network.Host(relayHost)
	state := c.stateDir(relayHost)
	r := &Relay{daemon{Host: host, StateDir: state, binary: c.Binaries.Relay, health: relayHealth, wrap: cfg.Wrap}}
	r.args = append([]string{
		"serve", "--listen", ":" + relayPort, "--advertise", r.Addr(),
		"--state-dir", state, "--health-listen", relayHealth,
	}, cfg.RelayArgs...)
	return r
}

// Addr returns the address and port at which agents and clients reach it.
func (r *Relay) Addr() string { return net.JoinHostPort(r.Host.Addr().String(), relayPort) }

// CAPin returns the pin of its CA.
func (r *Relay) CAPin() (string, error) {
	text, err := os.ReadFile(r.StateFile("ca-pin"))
	if err != nil {
		return "", fmt.Errorf("read relay's pin: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// Agent is the agent of one node.
type Agent struct {
	daemon
	// Node is the node's name, which is also that of its host.
	Node string
	// Proxy is between the agent and the relay; nil without ClusterConfig.Proxies.
	Proxy *Proxy
	// Broker has the agent's powers; nil without ClusterConfig.Split.
	Broker *Broker
}

// Start starts the agent, and first its broker if that does not run.
func (a *Agent) Start(ctx context.Context) error {
	if err := a.launch(ctx); err != nil {
		return err
	}
	return a.awaitReady(ctx)
}

func (a *Agent) launch(ctx context.Context) error {
	if b := a.Broker; b != nil && (b.Process == nil || b.Process.ended()) {
		if err := b.Start(ctx); err != nil {
			return err
		}
	}
	return a.daemon.launch()
}

func newAgent(c *Cluster, node string, cfg ClusterConfig) (*Agent, error) {
	host := c.Network.Host(node)
	state := c.stateDir(node)
	pin, err := c.Relay.CAPin()
	if err != nil {
		return nil, err
	}
	a := &Agent{Node: node, daemon: daemon{
		Host: host, StateDir: state, binary: c.Binaries.Agent, health: agentHealth, wrap: cfg.Wrap,
	}}
	relay := c.Relay.Addr()
	if cfg.Proxies {
		if a.Proxy, err = host.Proxy("127.0.0.1:"+relayPort, relay); err != nil {
			return nil, err
		}
		relay = a.Proxy.Addr().String()
	}
	a.args = append([]string{
		"--relay", relay, "--node", node, "--state-dir", state,
		"--join-token-file", c.Relay.StateFile("join-token"), "--relay-ca-pin", pin,
		"--source", "named", "--netns-dir", host.NetnsDir(), "--health-listen", agentHealth,
	}, cfg.AgentArgs...)
	if cfg.Split {
		return a, a.split(c, c.Relay.StateFile("join-token"))
	}
	return a, nil
}

// Serve starts podserver in the pod and returns when all its services listen. It
// runs until the pod is deleted or the network closed.
func (p *BarePod) Serve(podserver string, args ...string) error {
	proc, err := p.Start(context.Background(), podserver, args...)
	if err != nil {
		return err
	}
	_, err = proc.WaitLine(regexp.MustCompile(`^ready$`), readyTimeout)
	return err
}
