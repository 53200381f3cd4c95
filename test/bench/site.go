//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/load"
	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	// podName is the pod that all paths lead to, one of that name on each node.
	podName = "bench"
	// podImage has the program of test/bench/pod.
	podImage = "culvert.test/bench-pod:1"
	// patience bounds what takes a moment on a busy machine.
	patience = 30 * time.Second
)

// programs are the paths of everything that is run.
type programs struct {
	culvert, relay, agent string // built as for a release
	pod, limit, crowd     string
}

// build makes all programs, up to date.
func build(ctx context.Context) (programs, error) {
	root, err := lab.ModuleDir()
	if err != nil {
		return programs{}, err
	}
	dir := filepath.Join(root, ".cache", "bench")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return programs{}, err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w",
		"-o", dir+"/", "./cmd/culvert", "./cmd/culvert-relay", "./cmd/culvert-agent",
		"./test/bench/pod", "./test/bench/limit", "./test/bench/crowd")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return programs{}, fmt.Errorf("build: %w\n%s", err, out)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	return programs{
		culvert: in("culvert"), relay: in("culvert-relay"), agent: in("culvert-agent"),
		pod: in("pod"), limit: in("limit"), crowd: in("crowd"),
	}, nil
}

// node is a node with the pod on it.
type node struct {
	host  *lab.Host
	pod   string                        // the pod's name; nodes differ in that too
	netns string                        // of the pod
	enter func(lab.Command) lab.Command // how a program of the node is started
}

// site is where everything runs: a real cluster, or bare namespaces without any
// Kubernetes, where only the limit and culvert can be compared.
type site struct {
	net           *lab.Network
	client, relay *lab.Host
	nodes         []*node
	cluster       *cluster.Cluster // nil: bare
	binaries      string           // the directory of the cluster's programs
	close         func() error
}

// openCluster starts a real cluster with the pods.
func openCluster(ctx context.Context, p programs, artifacts string) (*site, error) {
	found, err := cluster.FindBinaries()
	if err != nil {
		return nil, err
	}
	c, err := cluster.Start(ctx, cluster.Config{Binaries: found, Artifacts: artifacts})
	if err != nil {
		return nil, err
	}
	s := &site{net: c.Network, client: c.Client, relay: c.Relay, cluster: c, binaries: found.Dir, close: c.Close}
	if err := s.clusterPods(ctx, p); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return s, nil
}

func (s *site) clusterPods(ctx context.Context, p programs) error {
	if err := s.cluster.Import(ctx, lab.Image{Ref: podImage, Program: p.pod}); err != nil {
		return err
	}
	for i, name := range []string{"node1", "node2"} {
		pod := fmt.Sprintf("%s-%d", podName, i+1)
		manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: %q, imagePullPolicy: Never}]
`, pod, name, podImage)
		if err := s.cluster.Apply(ctx, manifest); err != nil {
			return err
		}
		if _, err := s.cluster.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=60s"); err != nil {
			return err
		}
		n := s.cluster.Nodes[name]
		ns, err := n.Pod(ctx, "default", pod)
		if err != nil {
			return err
		}
		s.nodes = append(s.nodes, &node{host: n.Host, pod: pod, netns: ns.NetNS(), enter: n.Command})
	}
	return nil
}

// openBare makes hosts and pods and nothing else.
func openBare(ctx context.Context, p programs, artifacts string) (*site, error) {
	n, err := lab.New(ctx, lab.Config{Hosts: []string{"client", "relay", "node1", "node2"}, Artifacts: artifacts})
	if err != nil {
		return nil, err
	}
	s := &site{net: n, client: n.Host("client"), relay: n.Host("relay"), close: n.Close}
	for i, name := range []string{"node1", "node2"} {
		host := n.Host(name)
		pod, err := host.Pod(ctx, fmt.Sprintf("%s-%d", podName, i+1))
		if err == nil {
			err = servePod(pod, p)
		}
		if err != nil {
			return nil, errors.Join(err, n.Close())
		}
		s.nodes = append(s.nodes, &node{
			host: host, pod: pod.Name(), netns: pod.NetNS(),
			enter: func(c lab.Command) lab.Command { return c },
		})
	}
	return s, nil
}

func servePod(pod *lab.BarePod, p programs) error {
	proc, err := pod.Start(context.Background(), p.pod)
	if err != nil {
		return err
	}
	_, err = proc.WaitLine(regexp.MustCompile(`^ready$`), patience)
	return err
}

// podPorts are what every forward forwards.
func podPorts() []int { return []int{load.PortTransfer, load.PortEcho, load.PortHTTP} }
