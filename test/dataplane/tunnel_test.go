//go:build linux

package dataplane

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// ownTunnel sends data to one pod after the other and looks which node's
// connection to the relay it takes.
func (s *scene) ownTunnel(t *testing.T) {
	const size = 256 << 10
	for _, pod := range []*target{s.near, s.two, s.far} {
		fw := s.f.forward(t, pod.name, echoPort)
		end := record(t, []tap{{relayWire, s.f.Relay.Host.Namespace, "eth0"}})
		if err := fw.echo(t, size); err != nil {
			t.Fatalf("echo of pod %s: %v", pod.name, err)
		}
		packets := end()[relayWire]
		fw.end(t)
		for node, agent := range s.f.Agents {
			at := agent.Host.Addr()
			sum := lab.CountTCP(lab.Select(packets, func(p *lab.Packet) bool { return p.Src.Addr() == at || p.Dst.Addr() == at }))
			if own := node == pod.agent.Node; own && sum.PayloadBytes < 2*size || !own && sum.PayloadBytes > size/8 {
				t.Errorf("%d bytes to and from pod %s of %s: the tunnel of %s carried %d",
					2*size, pod.name, pod.agent.Node, node, sum.PayloadBytes)
			}
		}
	}
}

// echo sends random bytes to the echo service and expects them back.
func (fw *forwarding) echo(t *testing.T, size int) error {
	t.Helper()
	conn, err := fw.client.Dial(t.Context(), fw.local[echoPort])
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sent := make([]byte, size)
	_, _ = rand.Read(sent)
	written := make(chan error, 1)
	go func() { // ends at the latest when conn is closed or its deadline passes
		_, err := conn.Write(sent)
		if err == nil {
			err = conn.CloseWrite()
		}
		written <- err
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		conn.Close()
	}
	if werr := <-written; err == nil {
		err = werr
	}
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("%d bytes came back, not the same as the %d sent", len(got), size)
	}
	return err
}
