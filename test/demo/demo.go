package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// forwarding is the line that culvert prints, as kubectl does.
var forwarding = regexp.MustCompile(`^Forwarding from 127\.0\.0\.1:(\d+) -> 8080$`)

const podPort = 8080

// demo plays the whole story and cleans up.
func demo(ctx context.Context) (err error) {
	step("build the programs, lay out hosts as network namespaces, start a relay and two agents")
	c, err := lab.StartCluster(ctx, lab.ClusterConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	note("client %s    relay %s    node1 %s    node2 %s", c.Client.Addr(), c.Relay.Host.Addr(), c.Agents["node1"].Host.Addr(), c.Agents["node2"].Host.Addr())

	step("on node1: a pod that listens on its own localhost only")
	pod, err := c.PodServer(ctx, "node1", "web", "-http", fmt.Sprint(podPort))
	if err != nil {
		return err
	}
	if err := listing(c, pod); err != nil {
		return err
	}

	step("watch every hop with tcpdump")
	w, err := watch(ctx, c, pod)
	if err != nil {
		return err
	}
	step("culvert port-forward web 0:%d, and curl through it", podPort)
	if err := fetch(ctx, c); err != nil {
		return err
	}
	step("where the packets went")
	return w.report(c, pod)
}

// listing shows what listens in the pod.
func listing(c *lab.Cluster, pod *lab.BarePod) error {
	sockets, err := pod.Sockets()
	if err != nil {
		return err
	}
	for _, s := range lab.Listeners(sockets) {
		note("in the pod (eth0 %s): LISTEN %s", pod.Addr(), s.Local)
	}
	note("on node1 nothing of the agent listens but its health endpoint on localhost")
	_ = c
	return nil
}

// fetch forwards a port, and fetches a page through it.
func fetch(ctx context.Context, c *lab.Cluster) error {
	pf, err := c.Culvert(ctx, "port-forward", "web", fmt.Sprintf("0:%d", podPort))
	if err != nil {
		return err
	}
	defer pf.Kill()
	m, err := pf.WaitLine(forwarding, 15*time.Second)
	if err != nil {
		return err
	}
	note("%s", m[0])
	status, body, err := c.Client.HTTPGet(ctx, "http://127.0.0.1:"+m[1]+"/")
	if err != nil {
		return err
	}
	note("GET / -> %d %s", status, strings.TrimSpace(body))
	return pf.Stop(5 * time.Second)
}

// wires are the captures of one run.
type wires struct {
	client, relay, node, lo, eth0, cable *lab.Capture
}

func watch(ctx context.Context, c *lab.Cluster, pod *lab.BarePod) (*wires, error) {
	node := c.Agents["node1"].Host
	w := &wires{}
	for _, tap := range []struct {
		on    *lab.Namespace
		dev   string
		store **lab.Capture
	}{
		{c.Client.Namespace, "eth0", &w.client},
		{c.Relay.Host.Namespace, "eth0", &w.relay},
		{node.Namespace, "eth0", &w.node},
		{node.Namespace, "pods0", &w.cable},
		{pod.Namespace, "eth0", &w.eth0},
		{pod.Namespace, "lo", &w.lo},
	} {
		capture, err := tap.on.Capture(ctx, lab.CaptureConfig{Interface: tap.dev, Filter: "tcp"})
		if err != nil {
			return nil, err
		}
		*tap.store = capture
	}
	return w, nil
}

// report prints what each capture saw.
func (w *wires) report(c *lab.Cluster, pod *lab.BarePod) error {
	node := c.Agents["node1"].Host.Addr()
	client, relay := c.Client.Addr(), c.Relay.Host.Addr()
	for _, hop := range []struct {
		what    string
		capture *lab.Capture
		a, b    netip.Addr
	}{
		{"client  <-> relay   (client's eth0)", w.client, client, relay},
		{"relay   <-> node1   (node1's eth0)", w.node, relay, node},
		{"client  <-> node1   (node1's eth0)", w.node, client, node},
		{"node1   <-> pod     (node1's bridge)", w.cable, pod.Addr(), netip.Addr{}},
		{"pod's eth0", w.eth0, pod.Addr(), netip.Addr{}},
		{"pod's lo, 127.0.0.1 <-> 127.0.0.1", w.lo, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")},
	} {
		if _, err := hop.capture.Stop(); err != nil {
			return err
		}
		packets, err := hop.capture.Packets()
		if err != nil {
			return err
		}
		sum := lab.CountTCP(lab.Select(packets, func(p *lab.Packet) bool { return between(p, hop.a, hop.b) }))
		note("%-40s %4d packets %7d bytes", hop.what, sum.Packets, sum.WireBytes)
	}
	note("(control messages and the other streams of the tunnel included)")
	return nil
}

// between tells whether a packet went between two hosts; an invalid b is any.
func between(p *lab.Packet, a, b netip.Addr) bool {
	src, dst := p.Src.Addr(), p.Dst.Addr()
	if !b.IsValid() {
		return src == a || dst == a
	}
	return (src == a && dst == b) || (src == b && dst == a)
}
