package relay

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// counted counts what would be packets.
type counted struct {
	net.Conn
	writes *atomic.Int32
}

func (c counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// What a client sent behind its Open goes to the agent in the same packet as the
// Open, and what the pod said at once goes back with the Reply.
func TestFirstBytesShareAPacket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{})
		var toNode, toClient atomic.Int32
		r.wire = func(c net.Conn) net.Conn { return counted{c, &toNode} }
		node, tun := r.node("node-a")
		r.report(tun, "shop/web=uid-1")
		r.wire = func(c net.Conn) net.Conn { return counted{c, &toClient} }
		client := r.client()
		synctest.Wait() // what answers the report has been written
		toNode.Store(0)

		open := &stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: "shop", Pod: "web", Port: 80}
		c, err := connect.OpenWith(within(t), client.far, open, []byte("question"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := toNode.Swap(0); n != 1 {
			t.Errorf("Open and question left in %d writes", n)
		}
		a, _ := node.accept()
		expect(t, a, stream.AppendData(nil, []byte("question")))

		toClient.Store(0)
		b, err := stream.AppendReply(nil, &stream.Reply{Version: stream.Version})
		if err != nil {
			t.Fatal(err)
		}
		b = stream.AppendData(b, []byte("answer"))
		write(t, a, b)
		synctest.Wait()
		if n := toClient.Load(); n != 1 {
			t.Errorf("Reply and answer left in %d writes", n)
		}
		expect(t, c, b)
		_, _ = c.Reset(), a.Reset()
	})
}

// An Open with nothing behind it does not wait.
func TestLoneOpenDoesNotWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{})
		var toNode atomic.Int32
		r.wire = func(c net.Conn) net.Conn { return counted{c, &toNode} }
		node, tun := r.node("node-a")
		r.report(tun, "shop/web=uid-1")
		client := r.client()
		synctest.Wait() // what answers the report has been written
		toNode.Store(0)
		c := client.ask("shop", "web")
		synctest.Wait() // no time passes
		if n := toNode.Load(); n != 1 {
			t.Errorf("Open left in %d writes", n)
		}
		a, _ := node.accept()
		_, _ = c.Reset(), a.Reset()
	})
}

func expect(t *testing.T, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != string(want) {
		t.Errorf("read %q, %v, want %q", got, err, want)
	}
}
