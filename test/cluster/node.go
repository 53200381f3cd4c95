//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/culvert-k8s/culvert/test/lab"
)

// Node is a machine of the cluster.
type Node struct {
	// Host is its network.
	Host *lab.Host
	// Containerd runs its pods.
	Containerd *lab.Containerd
	// Kubelet and Proxy are its daemons.
	Kubelet, Proxy *Daemon

	machine *lab.Process
}

// Name returns the node's name, which is also that of its host.
func (n *Node) Name() string { return n.Host.Name() }

// Command returns command as it must be started on the node's Host to see the
// files that a program on the node sees.
func (n *Node) Command(command lab.Command) lab.Command { return n.machine.Enter(command) }

// Path returns where the test process finds a file of the node, such as
// /run/containerd/containerd.sock or /var/log/pods, as long as the node runs.
func (n *Node) Path(file string) string {
	return filepath.Join("/proc", strconv.Itoa(n.machine.Pid()), "root", file)
}

// Pod returns the network namespace of a pod that runs on the node. It lasts as
// long as the pod.
func (n *Node) Pod(ctx context.Context, namespace, name string) (*lab.Namespace, error) {
	pod, err := n.Containerd.FindPod(ctx, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name(), err)
	}
	return n.Host.Network().Adopt(name, pod.NetNS()), nil
}

// startNode makes a machine, starts containerd on it and prepares its daemons,
// which are not started yet.
func (c *Cluster) startNode(ctx context.Context, name string) (*Node, error) {
	host := c.Network.Host(name)
	dir := filepath.Join(c.dir, "nodes", name)
	machine, err := startMachine(host, dir)
	if err != nil {
		return nil, err
	}
	n := &Node{Host: host, machine: machine}
	n.Containerd, err = lab.StartContainerd(ctx, lab.ContainerdConfig{
		Runtime: c.binaries.Runtime, NetNS: host.NetNS(), MountNS: machine, NetNSInRun: true,
		PodCIDR: host.PodPrefix(), Bridge: "pods0",
		Log: filepath.Join(c.Network.Artifacts(), name+"-containerd.log"),
	})
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	// From here on the node goes back to the caller with any error, to be closed.
	_, err1 := host.RunCommand(ctx, machine.Enter(lab.Command{
		Path: "mount", Args: []string{"--bind", filepath.Dir(n.Containerd.Socket()), "/run/containerd"},
	}))
	err2 := host.Do(func() error {
		// Without it an answer between two pods of the node goes around the
		// translation that its request went through.
		return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0)
	})
	err3 := c.prepareKubelet(n, dir)
	err4 := c.prepareProxy(n, dir)
	err5 := makeCgroup(n.Containerd.Cgroup())
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return n, fmt.Errorf("node %s: %w", name, err)
	}
	return n, nil
}

// prepareKubelet writes its configuration.
func (c *Cluster) prepareKubelet(n *Node, dir string) error {
	user := "system:node:" + n.Name()
	kubeconfig, err1 := c.UserKubeconfig(user, "system:nodes")
	serving, err2 := c.ca.server("kubelet-"+n.Name(), user, []string{n.Name()}, n.Host.Addr())
	config := filepath.Join(dir, "kubelet.json")
	err3 := writeJSON(config, kubeletConfig(n, c.ca.certFile, serving))
	n.Kubelet = newDaemon(n.Host, n.Command(lab.Command{
		Path: c.binaries.path("kubelet"), Label: "kubelet",
		Args: []string{
			"--config=" + config, "--kubeconfig=" + kubeconfig,
			"--hostname-override=" + n.Name(), "--node-ip=" + n.Host.Addr().String(),
		},
	}))
	return errors.Join(err1, err2, err3)
}

// kubeletConfig leaves everything that a test may see at its default, except
// what this kind of machine forbids: cgroup v1 without the right to raise limits.
func kubeletConfig(n *Node, clientCA string, serving keyPair) any {
	type object map[string]any
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"tlsCertFile":              serving.certFile, "tlsPrivateKeyFile": serving.keyFile,
		"authentication": object{
			"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": clientCA},
		},
		"authorization": object{"mode": "Webhook"},
		"failCgroupV1":  false, "cgroupDriver": "cgroupfs", "cgroupRoot": n.Containerd.Cgroup(),
		"cgroupsPerQOS": true, "enforceNodeAllocatable": []string{}, "failSwapOn": false,
		// A full disk must not end tests that need none of it, and images that
		// were imported cannot be pulled again.
		"evictionHard": object{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
			"imagefs.inodesFree": "0%", "pid.available": "0%",
		},
		"imageGCHighThresholdPercent": 100,
		"makeIPTablesUtilChains":      false, // kube-proxy is not in iptables mode
		"resolvConf":                  "",    // nothing outside the cluster has a name
		"clusterDNS":                  []string{dnsAddr.String()},
		"clusterDomain":               dnsDomain,
		"readOnlyPort":                0,
		// So that a crashed container is back before a test has lost patience.
		"crashLoopBackOff": object{"maxContainerRestartPeriod": "5s"},
		"logging":          object{"verbosity": 2},
	}
}

// prepareProxy writes the configuration of kube-proxy.
func (c *Cluster) prepareProxy(n *Node, dir string) error {
	type object map[string]any
	kubeconfig, err := c.UserKubeconfig("system:kube-proxy")
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "kube-proxy.json")
	n.Proxy = newDaemon(n.Host, n.Command(lab.Command{
		Path: c.binaries.path("kube-proxy"), Label: "kube-proxy", Args: []string{"--config=" + config},
	}))
	return writeJSON(config, object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "nftables", "clientConnection": object{"kubeconfig": kubeconfig}, "hostnameOverride": n.Name(),
		"detectLocalMode": "BridgeInterface", "detectLocal": object{"bridgeInterface": "pods0"},
		"nftables": object{"minSyncPeriod": "100ms"},
		// The table of connections is the machine's.
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	})
}

// routeServices lets a host send packets for ClusterIPs: a node to itself, where
// kube-proxy gives them another destination before they leave, any other host to
// the node.
func routeServices(ctx context.Context, host *lab.Host, node netip.Addr) error {
	args := []string{"route", "add", serviceNet.String(), "dev", "eth0"}
	if node.IsValid() {
		args = append(args, "via", node.String())
	}
	_, err := host.Run(ctx, "ip", args...)
	return err
}

// checkReady returns nil when the node says that it is ready and its proxy
// serves the ClusterIP of the API server.
func (c *Cluster) checkReady(ctx context.Context, n *Node) error {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.Do(ctx, "GET", "/api/v1/nodes/"+n.Name(), nil, &node); err != nil {
		return err
	}
	err := errors.New("it says nothing")
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			err = nil
			if condition.Status != "True" {
				err = errors.New(strings.TrimSpace(condition.Message))
			}
		}
	}
	if err != nil {
		return err
	}
	conn, err := n.Host.Dial(ctx, netip.AddrPortFrom(serviceNet.Addr().Next(), 443).String())
	if err != nil {
		return err
	}
	return conn.Close()
}
