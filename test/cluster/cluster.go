//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/test/lab"
)

// The names of the hosts that every cluster has beside its nodes.
const (
	// ControlHost runs etcd and the control plane.
	ControlHost = "control"
	// RelayHost is outside the cluster and runs nothing.
	RelayHost = "relay"
	// ClientHost is outside the cluster; kubectl runs there.
	ClientHost = "client"
)

// Config says what a cluster is made of.
type Config struct {
	// Binaries are the programs to run. Required; see FindBinaries.
	Binaries Binaries
	// Nodes are the names of the nodes; nil means node1 and node2. At least one.
	Nodes []string
	// APIServerArgs are added to the command line of kube-apiserver.
	APIServerArgs []string
	// DNS runs CoreDNS in the cluster, so that pods find services by name. It adds
	// a few seconds.
	DNS bool
	// Artifacts is the directory of the logs; it must exist. Empty means one that
	// Close removes.
	Artifacts string
}

// Phase is a part of the start of a cluster, and how long it took.
type Phase struct {
	// Name says what was done.
	Name string
	// Took is the time it took.
	Took time.Duration
}

// Cluster is a Kubernetes cluster that is ready to run pods. Safe for concurrent
// use, but for Close.
type Cluster struct {
	// Network has all hosts.
	Network *lab.Network
	// Control is the control plane.
	Control *ControlPlane
	// Nodes are the nodes by their names.
	Nodes map[string]*Node
	// Relay and Client are the hosts outside the cluster.
	Relay, Client *lab.Host
	// AdminKubeconfig is the path of a kubeconfig with all rights.
	AdminKubeconfig string
	// Phases says how long the parts of Start took; the last is all of it.
	Phases []Phase

	binaries Binaries
	dir      string // below the network's
	ca       *authority
	api      *http.Client
	files    sync.Mutex // held while the files of a user are written
}

// Start starts a cluster and returns when it is ready to run pods. ctx bounds the
// start only; the caller must call Close.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	begin := time.Now()
	if cfg.Nodes == nil {
		cfg.Nodes = []string{"node1", "node2"}
	}
	if len(cfg.Nodes) == 0 {
		return nil, errors.New("start cluster: no nodes")
	}
	network, err := lab.New(ctx, lab.Config{
		Hosts: append([]string{ControlHost, RelayHost, ClientHost}, cfg.Nodes...), Artifacts: cfg.Artifacts,
	})
	if err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	c := &Cluster{
		Network: network, Relay: network.Host(RelayHost), Client: network.Host(ClientHost),
		Nodes: map[string]*Node{}, binaries: cfg.Binaries, dir: filepath.Join(network.Dir(), "cluster"),
	}
	if err := c.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), c.Close())
	}
	c.Phases = append(c.Phases, Phase{"all", time.Since(begin)})
	return c, nil
}

func (c *Cluster) start(ctx context.Context, cfg Config) error {
	for _, phase := range []struct {
		name string
		do   func(context.Context, Config) error
	}{
		{"hosts, certificates and routes", c.prepare},
		{"API server; containerd on the nodes", c.startFoundation},
		{"managers, kubelets, proxies", c.startRest},
		{"names", c.startNames},
	} {
		begin := time.Now()
		if err := phase.do(ctx, cfg); err != nil {
			return err
		}
		c.Phases = append(c.Phases, Phase{phase.name, time.Since(begin)})
	}
	return nil
}

// prepare makes what is needed before anything is started.
func (c *Cluster) prepare(ctx context.Context, cfg Config) error {
	var err error
	for _, sub := range []string{"pki", "kubeconfig", "home"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(c.dir, sub), 0o700))
	}
	if err != nil {
		return err
	}
	if c.ca, err = newAuthority(filepath.Join(c.dir, "pki"), "ca"); err != nil {
		return err
	}
	admin, err := c.ca.client("admin", "kubernetes-admin", "system:masters")
	if err != nil {
		return err
	}
	if err := c.newControlPlane(cfg.APIServerArgs); err != nil {
		return err
	}
	if c.AdminKubeconfig, err = c.writeKubeconfig("kubernetes-admin", credential{Cert: admin.cert, Key: admin.key}); err != nil {
		return err
	}
	if c.api, err = newAPIClient(c.Client, c.ca, admin); err != nil {
		return err
	}
	return c.routes(ctx, cfg.Nodes)
}

func (c *Cluster) routes(ctx context.Context, nodes []string) error {
	via := c.Network.Host(nodes[0]).Addr()
	var errs []error
	for _, host := range []*lab.Host{c.Control.Host, c.Relay, c.Client} {
		errs = append(errs, routeServices(ctx, host, via))
	}
	for _, name := range nodes {
		errs = append(errs, routeServices(ctx, c.Network.Host(name), netip.Addr{}))
	}
	return errors.Join(errs...)
}

// startFoundation starts side by side what does not need each other.
func (c *Cluster) startFoundation(ctx context.Context, cfg Config) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.startAPI(ctx) })
	for _, name := range cfg.Nodes {
		g.Go(func() error {
			n, err := c.startNode(ctx, name)
			if n != nil {
				mu.Lock()
				defer mu.Unlock()
				c.Nodes[name] = n
			}
			return err
		})
	}
	return g.Wait()
}

// startRest starts all that talks to the API server, and waits until pods can run.
func (c *Cluster) startRest(ctx context.Context, _ Config) error {
	daemons := []*Daemon{c.Control.ControllerManager, c.Control.Scheduler}
	for _, n := range c.Nodes {
		daemons = append(daemons, n.Kubelet, n.Proxy)
	}
	for _, d := range daemons {
		if err := d.Start(); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		err := Await(ctx, "node "+n.Name(), func(ctx context.Context) error { return c.checkReady(ctx, n) }, daemons...)
		if err != nil {
			return err
		}
	}
	return c.awaitAccounts(ctx)
}

func (c *Cluster) startNames(ctx context.Context, cfg Config) error {
	if !cfg.DNS {
		return nil
	}
	return c.startDNS(ctx)
}

// Server returns the URL of the API server.
func (c *Cluster) Server() string {
	return "https://" + net.JoinHostPort(c.Network.Host(ControlHost).Addr().String(), apiPort)
}

// CAFile returns the path of the certificate that the API server's is signed by.
func (c *Cluster) CAFile() string { return c.ca.certFile }

// Import adds images to all nodes. Every node has lab.PodImage from the start.
func (c *Cluster) Import(ctx context.Context, images ...lab.Image) error {
	return c.onNodes(ctx, func(ctx context.Context, n *Node) error {
		for _, image := range images {
			if err := n.Containerd.Import(ctx, image); err != nil {
				return err
			}
		}
		return nil
	})
}

// ImportArchive adds to all nodes the image that a tar holds under the name ref.
func (c *Cluster) ImportArchive(ctx context.Context, ref, archive string) error {
	return c.onNodes(ctx, func(ctx context.Context, n *Node) error { return n.Containerd.ImportArchive(ctx, ref, archive) })
}

func (c *Cluster) onNodes(ctx context.Context, do func(context.Context, *Node) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes {
		g.Go(func() error {
			if err := do(ctx, n); err != nil {
				return fmt.Errorf("node %s: %w", n.Name(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// KubectlCommand is the command line of kubectl with a kubeconfig, for
// Client.StartCommand and the like.
func (c *Cluster) KubectlCommand(kubeconfig string, args ...string) lab.Command {
	return lab.Command{
		Path: c.binaries.path("kubectl"), Args: args, Label: "kubectl",
		Env: []string{"KUBECONFIG=" + kubeconfig, "HOME=" + filepath.Join(c.dir, "home")},
	}
}

// oldKubectl is the program of OldKubectlCommand.
const oldKubectl = "kubectl-old"

// OldKubectlCommand is KubectlCommand with a kubectl of version 1.29, which
// port-forwards, executes and attaches over SPDY.
func (c *Cluster) OldKubectlCommand(kubeconfig string, args ...string) lab.Command {
	command := c.KubectlCommand(kubeconfig, args...)
	command.Path = c.binaries.path(oldKubectl)
	return command
}

// Kubectl runs kubectl as an administrator on the client host to its end and
// returns its output.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.Client.RunCommand(ctx, c.KubectlCommand(c.AdminKubeconfig, args...))
}

// Apply is kubectl apply of a manifest.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	command := c.KubectlCommand(c.AdminKubeconfig, "apply", "-f", "-")
	command.Stdin = strings.NewReader(manifest)
	_, err := c.Client.RunCommand(ctx, command)
	return err
}

// Close ends all pods and programs and removes everything. Idempotent.
func (c *Cluster) Close() error {
	var mu sync.Mutex
	var errs []error
	var running sync.WaitGroup
	for _, n := range c.Nodes {
		running.Go(func() {
			n.Kubelet.Stop() // first, or it would start the pods again
			n.Proxy.Stop()
			err := n.Containerd.Close()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	running.Wait()
	if c.Control != nil {
		for _, d := range c.Control.all() {
			d.Kill() // nobody will miss what it has not written yet
		}
	}
	if c.api != nil {
		c.api.CloseIdleConnections()
	}
	if err := errors.Join(append(errs, c.Network.Close())...); err != nil {
		return fmt.Errorf("close cluster: %w", err)
	}
	return nil
}
