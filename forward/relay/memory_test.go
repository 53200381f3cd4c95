package relay

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// flood writes until the stream is cut, and tells what it hears of that.
func flood(st *tunnel.Stream, heard chan<- string) {
	var reader sync.WaitGroup
	reader.Go(func() {
		heard <- next(st)
		_ = st.Reset()
	})
	defer reader.Wait()
	chunk := data(strings.Repeat("x", 16<<10))
	for {
		if _, err := st.Write(chunk); err != nil {
			return
		}
	}
}

// Who reads nothing, at either door, or has pods that read nothing, takes no more of
// the relay's memory than there is, and loses his own streams for it; somebody else's go
// on, and what he has not read yet stays.
func TestWhoReadsNothingIsCut(t *testing.T) {
	const limit, kinds, each = 8 << 20, 3, 14
	r := newRig(t, Config{Locate: located{}, Tunnel: tunnel.Config{Memory: &tunnel.Memory{Limit: limit}}})
	node, _ := r.node("node-a")
	patient := r.forward(r.connect(Identity{Role: RoleUser, Name: "ann"}, tunnel.Config{}), node)
	piece := strings.Repeat("b", 10<<10)
	for range 10 {
		write(t, patient.agent, data(piece))
	}

	greedy := Identity{Role: RoleUser, Name: "bob"}
	heard := make(chan string, kinds*each)
	var floods sync.WaitGroup
	var streams []*tunnel.Stream
	for range each {
		one, two := r.forward(r.connect(greedy, tunnel.Config{}), node), r.forward(r.connect(greedy, tunnel.Config{}), node)
		link, agent := r.linked(node)
		kubectl, _ := r.joined(within(t), link)
		t.Cleanup(func() { _ = kubectl.Close() })
		for _, st := range []*tunnel.Stream{one.agent, two.client, agent} {
			streams = append(streams, st)
			floods.Go(func() { flood(st, heard) })
		}
	}
	for range kinds * each / 3 {
		if got := <-heard; got != "reset(overloaded)" && got != "rst" {
			t.Errorf("a stream ended with %q", got)
		}
	}
	eventually(t, "there is room again", func() bool { return r.s.cfg.Tunnel.Memory.Usage().Unread <= limit })
	eventually(t, "lines of the log", func() bool { return len(r.log.all(t, "stream")) >= kinds*each/3 })
	for _, line := range r.log.all(t, "stream") {
		if line["code"] != stream.Overloaded.String() || line["user"] != "bob" || !strings.Contains(line["reason"].(string), "unread bytes") {
			t.Errorf("%v", line)
		}
	}
	var b bytes.Buffer
	r.s.WriteMetrics(&b)
	if strings.Contains(b.String(), "culvert_relay_tunnel_unread_cuts_total 0\n") || !strings.Contains(b.String(), "culvert_relay_tunnel_unread_limit_bytes 8.388608e+06\n") {
		t.Error(b.String())
	}
	for range 10 {
		if got := next(patient.client); got != piece {
			t.Fatalf("ann reads %.20q", got)
		}
	}
	sibling(t, patient)
	for _, st := range streams {
		_ = st.Reset()
	}
	floods.Wait()
}
