package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/netns"
)

// podFlags say which pods there are and which of them may be reached. They are those
// of whoever enters pods: the broker, or an agent without one.
type podFlags struct {
	source               string
	socket, k8sNamespace string
	netnsDir             string
	allowNS, denyNS      boot.List
	allowPorts           string
	denyPorts            string
	allowHost            bool
	maxDials             int
}

// brokersOwn are the flags that an agent with a broker has no use for. The bound of
// dials is one of questions then.
func brokersOwn() []string {
	return []string{
		"source", "containerd-socket", "containerd-namespace", "netns-dir",
		"allow-namespaces", "deny-namespaces", "allow-ports", "deny-ports", "allow-host-network",
	}
}

func (f *podFlags) register(fl *flag.FlagSet) {
	fl.StringVar(&f.source, "source", "", "where pods are found: containerd or named; default containerd if its socket exists, else named")
	fl.StringVar(&f.socket, "containerd-socket", "/run/containerd/containerd.sock", "socket of containerd")
	fl.StringVar(&f.k8sNamespace, "containerd-namespace", "k8s.io", "containerd's namespace of the pods")
	fl.StringVar(&f.netnsDir, "netns-dir", "/run/netns", "`directory` where this process sees the node's /run/netns: the pods of the source named, and what containerd calls /run/netns or /var/run/netns")
	fl.Var(&f.allowNS, "allow-namespaces", "the only namespaces that may be reached")
	fl.Var(&f.denyNS, "deny-namespaces", "namespaces that may not be reached")
	fl.StringVar(&f.allowPorts, "allow-ports", "", "the only ports that may be reached, as 80,8000-8100")
	fl.StringVar(&f.denyPorts, "deny-ports", "", "ports that may not be reached, as 22,10250")
	fl.BoolVar(&f.allowHost, "allow-host-network", false, "let streams into pods with host networking, and so to everything on the agent's own localhost, which must be the node's")
	fl.IntVar(&f.maxDials, "max-dials", 256, "the most dials into pods under way at once")
}

func (f *podFlags) check() error {
	switch {
	case f.maxDials < 1:
		return fmt.Errorf("--max-dials %d is not a positive number", f.maxDials)
	case f.source != "" && f.source != "containerd" && f.source != "named":
		return fmt.Errorf("source %q is none of containerd, named", f.source)
	}
	return nil
}

func (f *podFlags) policy() (reach.Policy, error) {
	allow, err := reach.ParsePorts(f.allowPorts)
	if err != nil {
		return reach.Policy{}, fmt.Errorf("--allow-ports: %w", err)
	}
	deny, err := reach.ParsePorts(f.denyPorts)
	if err != nil {
		return reach.Policy{}, fmt.Errorf("--deny-ports: %w", err)
	}
	return reach.Policy{
		AllowNamespaces: f.allowNS, DenyNamespaces: f.denyNS,
		AllowPorts: allow, DenyPorts: deny, AllowHostNetwork: f.allowHost,
	}, nil
}

// local are the pods that this process enters itself.
func (f *podFlags) local(log *slog.Logger) (*reach.Local, error) {
	policy, err := f.policy()
	if err != nil {
		return nil, err
	}
	return &reach.Local{
		Source: f.podSource(log),
		Dialer: &reach.NetnsDialer{Dialer: netns.Dialer{MaxInFlight: f.maxDials}},
		Policy: policy,
	}, nil
}

func (f *podFlags) podSource(log *slog.Logger) reach.Source {
	source := f.source
	if source == "" {
		source = "named"
		if _, err := os.Stat(f.socket); err == nil {
			source = "containerd"
		}
	}
	log.Info("pods", "source", source)
	if source == "containerd" {
		return sandbox.NewContainerd(sandbox.ContainerdConfig{Socket: f.socket, Namespace: f.k8sNamespace, NetNSDir: f.netnsDir})
	}
	return sandbox.NewNamed(sandbox.NamedConfig{Dir: f.netnsDir})
}
