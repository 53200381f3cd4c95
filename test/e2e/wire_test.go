//go:build linux

package e2e

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// wire proves with captures which way the bytes go: on the node nothing to or from
// the kubelet, in the pod nothing but its localhost, and nothing that can be read
// on the wire.
func wire(t *testing.T, r *rig) {
	node := r.Nodes["node1"]
	pod, err := node.Pod(t.Context(), "default", "inner")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range r.ways(t) {
		t.Run(w.name, func(t *testing.T) {
			start := func(on *lab.Namespace, dev, filter string) *lab.Capture {
				c, err := on.Capture(t.Context(), lab.CaptureConfig{Interface: dev, Filter: filter})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _, _ = c.Stop() })
				return c
			}
			kubelet := start(node.Host.Namespace, "eth0", "tcp port 10250")
			outside := start(node.Host.Namespace, "eth0", "tcp")
			podWire := start(pod, "eth0", "")
			local := start(pod, "lo", "")
			f, err := w.forward(t.Context(), "pod/inner", portHTTP)
			if err != nil {
				t.Fatal(err)
			}
			if status, body, err := fetch(t.Context(), f); err != nil || status != 200 || !strings.Contains(body, "hello from") {
				t.Errorf("%d %q, %v", status, body, err)
			}
			f.Kill()
			packets := func(c *lab.Capture) []lab.Packet {
				all, err := c.Packets()
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			if n := len(lab.Select(packets(kubelet), (*lab.Packet).IsTCP)); (n == 0) != w.culvert {
				t.Errorf("%d packets on the kubelet's port", n)
			}
			// A late packet of something before proves nothing; a connection that begins does.
			if dials := lab.Dials(packets(podWire)); len(dials) != 0 || lab.InPayload(packets(podWire), []byte("hello from")) {
				t.Errorf("on the pod's eth0: connections %v, or the answer", dials)
			}
			if lab.InPayload(packets(outside), []byte("hello from")) {
				t.Error("the answer can be read on the node's wire")
			}
			toPod := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), portHTTP)
			dials := lab.Dials(packets(local))
			if len(dials) != 1 || dials[0].Dst != toPod || dials[0].Src.Addr() != toPod.Addr() {
				t.Errorf("connections on the pod's localhost: %v", dials)
			}
			if !lab.InPayload(packets(local), []byte("hello from")) {
				t.Error("the answer is not on the pod's localhost")
			}
		})
	}
}

// fetch gets the first page over a forwarding.
func fetch(ctx context.Context, f *forwarding) (int, string, error) {
	return f.way.on.HTTPGet(ctx, "http://127.0.0.1:"+f.ports[0]+"/")
}
