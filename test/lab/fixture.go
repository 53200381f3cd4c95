//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// The names of the hosts that every cluster has.
	relayHost  = "relay"
	clientHost = "client"

	relayPort   = "7443"
	relayHealth = "127.0.0.1:7480"
	agentHealth = "127.0.0.1:7481"

	// quickExit takes away the second that a program with the race detector waits
	// at its end for reports of other threads.
	quickExit = "GORACE=atexit_sleep_ms=0"

	// readyTimeout bounds how long a daemon may take to be ready.
	readyTimeout = 30 * time.Second
)

// ClusterConfig says what a Cluster is made of.
type ClusterConfig struct {
	// Nodes are the names of the nodes, each a host with an agent; nil means
	// node1 and node2.
	Nodes []string
	// Proxies puts a Proxy on every node between its agent and the relay.
	Proxies bool
	// Split runs each agent as the chart does: as a user without any capability, beside
	// a broker that has what there is to have. Agents get the flags that they always
	// get, and the broker those that are about pods.
	Split bool
	// RelayArgs and AgentArgs are added to the command lines.
	RelayArgs, AgentArgs []string
	// Wrap, if not nil, returns how the relay or the agent on a host is started
	// instead of command.
	Wrap func(host string, command Command) Command
	// Artifacts is as in Config. NewCluster sets it.
	Artifacts string
}

// Cluster is a relay, agents and a client, each on a host of its own, running
// the real programs. Pods are bare namespaces on the nodes.
type Cluster struct {
	Network  *Network
	Binaries *Binaries
	Relay    *Relay
	// Client is the host that culvert runs on.
	Client *Host
	// Agents has one agent for each node, by the node's name.
	Agents map[string]*Agent
}

// NewCluster starts a cluster that ends with the test, which fails if a program
// of it panicked or had a data race. It skips the test without root.
func NewCluster(t TB, cfg ClusterConfig) *Cluster {
	t.Helper()
	RequireRoot(t)
	cfg.Artifacts = Artifacts(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // a first build is slow
	defer cancel()
	c, err := StartCluster(ctx, cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close cluster: %v", err)
		}
		if err := Complaints(cfg.Artifacts); err != nil {
			t.Errorf("%v", err)
		}
	})
	return c
}

// StartCluster builds the programs, makes the hosts, starts the relay and then
// the agents, and returns when all say they are ready. The caller closes it.
func StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	if cfg.Nodes == nil {
		cfg.Nodes = []string{"node1", "node2"}
	}
	binaries, err := Build(ctx)
	if err != nil {
		return nil, err
	}
	hosts := append([]string{relayHost, clientHost}, cfg.Nodes...)
	n, err := New(ctx, Config{Hosts: hosts, Artifacts: cfg.Artifacts})
	if err != nil {
		return nil, err
	}
	c := &Cluster{Network: n, Binaries: binaries, Client: n.Host(clientHost), Agents: map[string]*Agent{}}
	if err := c.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), n.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, cfg ClusterConfig) error {
	if err := os.Mkdir(c.stateDir(""), 0o700); err != nil {
		return err
	}
	c.Relay = newRelay(c, cfg)
	if err := c.Relay.Start(ctx); err != nil {
		return err
	}
	for _, node := range cfg.Nodes {
		agent, err := newAgent(c, node, cfg)
		if err != nil {
			return err
		}
		c.Agents[node] = agent
		if err := agent.launch(ctx); err != nil { // all first, then wait: they start side by side
			return err
		}
	}
	for _, node := range cfg.Nodes {
		if err := c.Agents[node].awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stateDir is where the daemon on a host keeps its state.
func (c *Cluster) stateDir(host string) string {
	return filepath.Join(c.Network.Dir(), "state", host)
}

// Close stops the agents, then the relay, and removes everything.
func (c *Cluster) Close() error {
	var daemons []*Process
	for _, agent := range c.Agents {
		if agent.Process != nil {
			daemons = append(daemons, agent.Process)
		}
	}
	stopAll(daemons, stopGrace)
	for _, agent := range c.Agents {
		if agent.Broker != nil && agent.Broker.Process != nil {
			_ = agent.Broker.Process.Stop(stopGrace)
		}
	}
	return c.Network.Close()
}

// Pod makes a bare pod on a node. The relay soon knows it by that name; see AwaitPod.
func (c *Cluster) Pod(ctx context.Context, node, name string) (*BarePod, error) {
	return c.Network.Host(node).Pod(ctx, name)
}

// PodServer makes a pod and starts podserver in it with the given arguments,
// and returns when all its services listen and the relay knows the pod.
func (c *Cluster) PodServer(ctx context.Context, node, name string, args ...string) (*BarePod, error) {
	old, err := c.reportedUID(ctx, node, name)
	if err != nil {
		return nil, err
	}
	pod, err := c.Pod(ctx, node, name)
	if err != nil {
		return nil, err
	}
	if err := pod.Serve(c.Binaries.PodServer, args...); err != nil {
		return nil, err
	}
	_, err = c.AwaitPod(ctx, node, name, old)
	return pod, err
}

// ClientEnv is the environment that lets culvert find the relay and be let in.
func (c *Cluster) ClientEnv() []string {
	return []string{
		"CULVERT_RELAY=" + c.Relay.Addr(),
		"CULVERT_RELAY_CA=" + c.Relay.StateFile("ca.crt"),
		"CULVERT_TOKEN_FILE=" + c.Relay.StateFile("client-token"),
		"HOME=" + c.Network.Dir(),
		quickExit,
	}
}

// Culvert starts culvert on the client host.
func (c *Cluster) Culvert(ctx context.Context, args ...string) (*Process, error) {
	return c.Client.StartCommand(ctx, c.Command(args...))
}

// RunCulvert runs culvert on the client host to its end and returns its output.
func (c *Cluster) RunCulvert(ctx context.Context, args ...string) (string, error) {
	return c.Client.RunCommand(ctx, c.Command(args...))
}

// Command is the command line of culvert, for Client.StartCommand and RunCommand
// with settings of the test's own.
func (c *Cluster) Command(args ...string) Command {
	return Command{Path: c.Binaries.Client, Args: args, Env: c.ClientEnv()}
}

// Complaints looks through the process logs in a directory for what no program
// may ever write: reports of panics, runtime failures and data races.
func Complaints(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return fmt.Errorf("look for complaints: %w", err)
	}
	slices.Sort(logs)
	var errs []error
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("look for complaints: %w", err)
		}
		for _, bad := range []string{"WARNING: DATA RACE", " err panic: ", " err fatal error: "} {
			if at := bytes.Index(text, []byte(bad)); at >= 0 {
				errs = append(errs, fmt.Errorf("%s: %.2000s", filepath.Base(path), text[at:]))
			}
		}
	}
	return errors.Join(errs...)
}
