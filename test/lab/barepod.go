//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
)

// BarePod is a pod without a container runtime: a namespace on a host with its
// own loopback device, and eth0 with a route to all hosts and pods. Its file in
// the host's netns directory has the pod's name.
type BarePod struct {
	*Namespace
	name string
	host *Host
	addr netip.Addr
	veth string // the other end of eth0, on the host
}

// errNoAddress reports a host whose pod subnet is used up.
var errNoAddress = errors.New("no address left for pods")

// Pod makes a pod on the host. A name may be used again after Delete.
func (h *Host) Pod(ctx context.Context, name string) (*BarePod, error) {
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("make pod: name %q is not usable", name)
	}
	p := &BarePod{
		Namespace: h.net.Adopt(h.label+"-"+name, filepath.Join(h.netnsDir, name)),
		name:      name, host: h,
		veth: fmt.Sprintf("p%d", h.net.nextSerial()),
	}
	if err := h.admit(p); err != nil {
		return nil, fmt.Errorf("make pod %s on %s: %w", name, h.label, err)
	}
	if err := p.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make pod %s on %s: %w", name, h.label, err), p.Delete())
	}
	return p, nil
}

// admit gives the pod the lowest free address: one that a deleted pod had is
// soon used by another, as in a cluster.
func (h *Host) admit(p *BarePod) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.byIP {
		if other.name == p.name {
			return errors.New("the name is taken")
		}
	}
	for addr := h.pods.Addr().Next().Next(); h.pods.Contains(addr.Next()); addr = addr.Next() {
		if h.byIP[addr] == nil {
			p.addr, h.byIP[addr] = addr, p
			return nil
		}
	}
	return errNoAddress
}

// dismiss takes the pod off the host's list; false if it was not on it.
func (h *Host) dismiss(p *BarePod) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byIP[p.addr] != p {
		return false
	}
	delete(h.byIP, p.addr)
	return true
}

func (p *BarePod) build(ctx context.Context) error {
	if err := p.create(); err != nil {
		return err
	}
	if err := p.host.configure(ctx,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", p.veth, p.path),
		fmt.Sprintf("link set %s master pods0 up", p.veth),
	); err != nil {
		return err
	}
	return p.configure(ctx,
		"link set lo up",
		fmt.Sprintf("address add %s/%d dev eth0", p.addr, p.host.pods.Bits()),
		"link set eth0 up",
		fmt.Sprintf("route add default via %s", p.host.pods.Addr().Next()),
	)
}

// Pods returns the host's pods in no particular order.
func (h *Host) Pods() []*BarePod {
	h.mu.Lock()
	defer h.mu.Unlock()
	pods := make([]*BarePod, 0, len(h.byIP))
	for _, p := range h.byIP {
		pods = append(pods, p)
	}
	return pods
}

// Name returns the name of the pod and of its namespace file.
func (p *BarePod) Name() string { return p.name }

// Host returns the host that the pod is on.
func (p *BarePod) Host() *Host { return p.host }

// Addr returns the address of the pod's eth0.
func (p *BarePod) Addr() netip.Addr { return p.addr }

// Delete kills the processes that were started in the pod through the lab and
// removes the pod. Idempotent.
func (p *BarePod) Delete() error {
	if !p.host.dismiss(p) {
		return nil
	}
	for _, process := range p.host.net.processes(p.Namespace) {
		process.Kill()
	}
	// A socket that somebody still holds keeps the namespace alive; the cable goes
	// now all the same, as a network plugin takes it away.
	unplugged := p.host.configure(context.Background(), "link delete "+p.veth)
	if err := errors.Join(unplugged, p.remove()); err != nil {
		return fmt.Errorf("delete pod %s on %s: %w", p.name, p.host.label, err)
	}
	return nil
}
