package relay

import (
	"io"
	"testing"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// Whatever one side sends after the Reply, the other gets well-formed frames
// only, a finished direction only if the sender finished it, and as data
// nothing the sender did not send.
func FuzzSplice(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(append(data("abc"), fin()...), true)
	f.Add(append(append(data("abc"), fin()...), data("more")...), false)
	f.Add(append(data("abc"), data("defg")[:5]...), true)
	f.Add(append(data("abc"), stream.AppendReset(nil, stream.PodReset, "x")...), false)
	f.Add(append(append(data("a"), fin()...), stream.AppendReset(nil, 999, "")...), true)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), true)
	f.Add([]byte{1, 0, 0xff, 0xff}, false)
	f.Fuzz(func(t *testing.T, wire []byte, up bool) {
		if len(wire) > 64<<10 {
			return
		}
		r := newRig(t, Config{})
		client := r.client()
		node, tun := r.node("node-a")
		r.report(tun, "shop/web=uid-1")
		p := r.forward(client, node)
		from, to := p.client, p.agent
		if !up {
			from, to = to, from
		}
		_, _ = from.WriteLast(wire)
		got, _ := io.ReadAll(to)

		var sent, seen stream.Scanner
		serr := sent.Scan(wire)
		if err := seen.Scan(got); err != nil {
			t.Errorf("the other side reads %q: %v", got, err)
		}
		finished := serr == nil && sent.Ended() && sent.Reset() == nil
		if seen.Ended() && seen.Reset() == nil && !finished {
			t.Errorf("%q arrives as a finished direction: %q", wire, got)
		}
		if finished && seen.Payload() != sent.Payload() || seen.Payload() > sent.Payload() {
			t.Errorf("%d bytes of %d arrive", seen.Payload(), sent.Payload())
		}
		_ = from.Close()
		_ = to.Close()
		r.quiet(client, node)
	})
}
