//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// Host is a machine of the lab: a namespace with a loopback device, eth0 in the
// network's bridge, and a bridge of its own, pods0, for its pods.
type Host struct {
	*Namespace
	addr     netip.Addr
	port     string       // the other end of eth0, in the bridge's namespace
	pods     netip.Prefix // the addresses of its pods
	netnsDir string

	mu   sync.Mutex
	byIP map[netip.Addr]*BarePod
}

// addHost makes the next host and plugs it in.
func (n *Network) addHost(ctx context.Context, name string) (*Host, error) {
	if !hostName.MatchString(name) || name == "bridge" {
		return nil, fmt.Errorf("host name %q is not usable", name)
	}
	if _, taken := n.hosts[name]; taken {
		return nil, fmt.Errorf("host name %q is taken", name)
	}
	number := byte(len(n.order) + 1)
	base := n.prefix.Addr().As4()
	base[3] = number
	h := &Host{
		Namespace: n.Adopt(name, filepath.Join(n.dir, "net", name)),
		addr:      netip.AddrFrom4(base),
		port:      fmt.Sprintf("h%d", number),
		pods:      netip.PrefixFrom(netip.AddrFrom4([4]byte{n.podNet[0], n.podNet[1], number, 0}), 24),
		netnsDir:  filepath.Join(n.dir, "hosts", name, "netns"),
		byIP:      map[netip.Addr]*BarePod{},
	}
	if err := os.MkdirAll(h.netnsDir, 0o755); err != nil {
		return nil, err
	}
	if err := h.create(); err != nil {
		return nil, err
	}
	n.hosts[name], n.order = h, append(n.order, h)
	if err := n.bridge.configure(ctx,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", h.port, h.path),
		fmt.Sprintf("link set %s master br0 up", h.port),
	); err != nil {
		return nil, err
	}
	if err := h.configure(ctx,
		"link set lo up",
		fmt.Sprintf("address add %s/%d dev eth0", h.addr, n.prefix.Bits()),
		"link set eth0 up",
		"link add pods0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
		fmt.Sprintf("address add %s/%d dev pods0", h.pods.Addr().Next(), h.pods.Bits()),
		"link set pods0 up",
	); err != nil {
		return nil, err
	}
	return h, h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
}

// routePods tells h where the pods of the other hosts are, as a cluster's network does.
func (n *Network) routePods(ctx context.Context, h *Host) error {
	var lines []string
	for _, other := range n.order {
		if other != h {
			lines = append(lines, fmt.Sprintf("route add %s via %s", other.pods, other.addr))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return h.configure(ctx, lines...)
}

// Addr returns the address of eth0.
func (h *Host) Addr() netip.Addr { return h.addr }

// PodPrefix returns the subnet of the host's pods; its first address is the
// host's own on pods0.
func (h *Host) PodPrefix() netip.Prefix { return h.pods }

// NetnsDir returns the directory with the namespaces of this host's pods, one
// file per pod, named as the pod: what an agent takes as --netns-dir.
func (h *Host) NetnsDir() string { return h.netnsDir }

// Unplug pulls the host's cable: frames are dropped in both directions and
// neither side is told, as when a switch dies.
func (h *Host) Unplug(ctx context.Context) error { return h.setPort(ctx, "0") }

// Plug puts the cable back.
func (h *Host) Plug(ctx context.Context) error { return h.setPort(ctx, "3") }

func (h *Host) setPort(ctx context.Context, state string) error {
	_, err := h.net.bridge.Run(ctx, "bridge", "link", "set", "dev", h.port, "state", state)
	return err
}

// remove takes away the namespaces of the pods and of the host, and with them
// all devices. It comes after the processes have ended.
func (h *Host) remove() error {
	for _, pod := range h.Pods() {
		if err := pod.remove(); err != nil {
			return err
		}
	}
	return h.Namespace.remove()
}
