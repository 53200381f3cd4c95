//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/load"
	"github.com/culvert-k8s/culvert/test/lab"
)

// The ways, by which series are known.
const (
	wayLimit       = "limit"
	wayStock       = "kubectl"
	wayStockSPDY   = "kubectl-spdy"
	wayThrough     = "kubectl-culvert"
	wayThroughSPDY = "kubectl-spdy-culvert"
	wayCulvert     = "culvert"
)

// way is one program on one path.
type way struct {
	name  string
	stock bool // the path is that of Kubernetes
	// command forwards ports on a route.
	command func(to route, ports []string) lab.Command
	// middle are the processes between client and pod, on a route.
	middle func(to route) ([]part, error)
	// wire is the port by which packets on the node's wire belong to this way.
	wire int
}

// ways are all that this site has.
func (r *rig) ways() []*way {
	limit := &way{name: wayLimit, wire: limitNodePort, command: r.limitCommand, middle: r.limitMiddle}
	culvert := &way{name: wayCulvert, wire: relayPort, command: r.culvertCommand, middle: r.culvertMiddle}
	if r.cluster == nil {
		return []*way{limit, culvert}
	}
	stock := func(name string, kubectl func(string, ...string) lab.Command) *way {
		return &way{
			name: name, stock: true, wire: kubeletPort, middle: r.stockMiddle,
			command: func(to route, ports []string) lab.Command {
				args := []string{"port-forward", "pod/" + r.podOn(to)}
				if to != near {
					args = append(args, "--server", "https://"+r.legOf["stock"].addr(), "--tls-server-name", r.serverName)
				}
				return kubectl(r.direct, append(args, ports...)...)
			},
		}
	}
	through := func(name string, kubectl func(string, ...string) lab.Command) *way {
		return &way{
			name: name, wire: relayPort, middle: r.culvertMiddle,
			command: func(to route, ports []string) lab.Command {
				kubeconfig := r.through
				if to != near {
					kubeconfig = r.throughFar
				}
				return kubectl(kubeconfig, append([]string{"port-forward", "pod/" + r.podOn(to)}, ports...)...)
			},
		}
	}
	now, old := r.cluster.KubectlCommand, r.cluster.OldKubectlCommand
	return []*way{
		limit, stock(wayStock, now), stock(wayStockSPDY, old),
		through(wayThrough, now), through(wayThroughSPDY, old), culvert,
	}
}

// nodeOf is the number of the node at the end of a route.
func nodeOf(to route) int {
	if to == beset {
		return 1
	}
	return 0
}

func (r *rig) podOn(to route) string { return r.nodes[nodeOf(to)].pod }

func (r *rig) limitCommand(to route, ports []string) lab.Command {
	relay := addr(r.relay, limitRelayPort)
	if to != near {
		relay = r.legOf["limit-"+strconv.Itoa(nodeOf(to))].addr()
	}
	list := strings.ReplaceAll(strings.Join(ports, ","), ":", "")
	return lab.Command{Path: r.bin.limit, Args: []string{"client", "-to", relay, "-ports", list}, Label: "limit-client"}
}

func (r *rig) limitMiddle(to route) ([]part, error) {
	i := nodeOf(to)
	return []part{family("relay", r.limitRelays[i].Pid()), family("node", r.limitNodes[i].Pid())}, nil
}

func (r *rig) culvertCommand(to route, ports []string) lab.Command {
	relay := addr(r.relay, relayPort)
	if to != near {
		relay = r.legOf["relay"].addr()
	}
	args := []string{"port-forward", "--relay", relay, "--relay-ca", r.ca()}
	var command lab.Command
	if r.cluster == nil {
		args = append(args, "--token-file", filepath.Join(r.state("relay"), "client-token"))
		command = lab.Command{Env: []string{"HOME=" + r.dir}}
		command.Args = append(append(args, r.podOn(to)), ports...)
	} else {
		command = r.cluster.KubectlCommand(r.direct, append(append(args, "pod/"+r.podOn(to)), ports...)...)
	}
	command.Path, command.Label = r.bin.culvert, "culvert"
	return command
}

func (r *rig) culvertMiddle(to route) ([]part, error) {
	return []part{family("relay", r.relayProc.Pid()), family("agent", r.agents[nodeOf(to)].Pid())}, nil
}

func (r *rig) stockMiddle(to route) ([]part, error) {
	n := r.nodes[nodeOf(to)]
	containerd, err := findIn(n.host.NetNS(), "containerd")
	return []part{
		family("apiserver", r.cluster.Control.APIServer.Process().Pid()),
		family("kubelet", r.cluster.Nodes[n.host.Name()].Kubelet.Process().Pid()),
		{"containerd", []int{containerd}}, // its children are pods
	}, err
}

// forwarding is a program that forwards the pod's ports.
type forwarding struct {
	*lab.Process
	rig   *rig
	way   *way
	parts []part // the program, and what is in the middle
	ports map[int]uint16
	// pace is how many bytes a second it moved last, by the case.
	pace float64
}

var forwardingLine = regexp.MustCompile(`^(?:Forwarding from|listening) 127\.0\.0\.1:(\d+) (?:-> )?(\d+)$`)

// forward starts a forwarding and returns when all ports are forwarded.
func (r *rig) forward(ctx context.Context, w *way, to route) (*forwarding, error) {
	var ports []string
	for _, port := range podPorts() {
		ports = append(ports, ":"+strconv.Itoa(port))
	}
	p, err := r.client.StartCommand(ctx, w.command(to, ports))
	if err != nil {
		return nil, err
	}
	f := &forwarding{Process: p, rig: r, way: w, ports: map[int]uint16{}}
	if err := f.await(to); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%w; it said: %s", err, said(p))
	}
	return f, nil
}

func (f *forwarding) await(to route) error {
	deadline := time.Now().Add(patience)
	for len(f.ports) < len(podPorts()) {
		mark := f.Mark()
		for _, line := range f.Lines()[:mark] {
			if m := forwardingLine.FindStringSubmatch(line.Text); m != nil {
				local, err1 := strconv.ParseUint(m[1], 10, 16)
				port, err2 := strconv.Atoi(m[2])
				if err := errors.Join(err1, err2); err != nil {
					return err
				}
				f.ports[port] = uint16(local)
			}
		}
		if len(f.ports) < len(podPorts()) {
			if _, err := f.WaitLineFrom(mark, forwardingLine, time.Until(deadline)); err != nil {
				return err
			}
		}
	}
	middle, err := f.way.middle(to)
	f.parts = append([]part{family("client", f.Pid())}, middle...)
	return err
}

// dial reaches a port of the pod.
func (f *forwarding) dial(port int) load.Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		return f.rig.dialer.Dial(ctx, f.rig.inside, f.ports[port])
	}
}

// alive tells whether the program still runs.
func (f *forwarding) alive() bool {
	select {
	case <-f.Done():
		return false
	default:
		return true
	}
}

// said is the last of what a program has printed, as one line.
func said(p *lab.Process) string {
	lines := p.Lines()
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-8):] {
		fmt.Fprintf(&b, "%s | ", strings.TrimSpace(line.Text))
	}
	return b.String()
}
