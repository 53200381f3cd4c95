//go:build linux

package faults

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// hostile is a pod on node1, beside the one that is under load, with somebody who
// forwards to it and plays along. Nobody else may notice anything.
type hostile struct {
	what string
	// pod and user are what the two do with each connection until ctx ends, which
	// closes it. A user whose connection is over makes the next one.
	pod, user func(ctx context.Context, c *net.TCPConn)

	bare   *lab.BarePod
	ln     *net.TCPListener
	via    *forward
	cancel context.CancelFunc
	all    sync.WaitGroup
}

// users is how many connections a hostile pod has at a time.
const users = 16

func hostilePods() []fault {
	var all []fault
	for i, h := range []*hostile{
		{what: "floods, and nobody reads", pod: pour, user: idle},
		{what: "floods, and everything is read", pod: pour, user: drain},
		{what: "resets at once", pod: abort, user: greet},
		{what: "finishes at once and reads on", pod: func(ctx context.Context, c *net.TCPConn) { _ = c.CloseWrite(); drain(ctx, c) }, user: greet},
		{what: "hangs up at once", pod: func(context.Context, *net.TCPConn) {}, user: greet},
		{what: "never reads", pod: idle, user: pour},
		{what: "reads one byte at a time", pod: sip, user: pour},
		{what: "sends one byte at a time", pod: trickle, user: drain},
	} {
		all = append(all, fault{
			where: "pod beside", what: h.what, lasts: longTime,
			begin: func(t *testing.T, r *rig) { h.begin(t, r, fmt.Sprintf("bad-%d", i)) },
			end:   h.end,
		})
	}
	return all
}

func (h *hostile) begin(t *testing.T, r *rig, name string) {
	t.Helper()
	var err error
	h.bare, err = r.Pod(t.Context(), "node1", name)
	must(t, err)
	h.ln, err = h.bare.Listen(fmt.Sprintf("127.0.0.1:%d", podPort))
	must(t, err)
	_, err = r.AwaitPod(t.Context(), "node1", name, "")
	must(t, err)
	h.via = &forward{r: r, command: r.Command("port-forward", name, fmt.Sprintf(":%d", podPort))}
	h.via.command.Label = "culvert-" + name
	must(t, h.via.start())
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.all.Go(func() {
		for {
			c, err := h.ln.AcceptTCP()
			if err != nil {
				return
			}
			h.all.Go(func() { with(ctx, c, h.pod) })
		}
	})
	for range users {
		h.all.Go(func() {
			for ctx.Err() == nil {
				if c, err := r.Client.Dial(ctx, h.via.address); err == nil {
					with(ctx, c, h.user)
				}
				time.Sleep(time.Millisecond) // a machine with few cores has others to serve
			}
		})
	}
}

func (h *hostile) end(t *testing.T, _ *rig) {
	t.Helper()
	h.cancel()
	_ = h.ln.Close()
	h.all.Wait()
	h.via.Kill()
	must(t, h.bare.Delete())
}

// with lets do have a connection until it returns or ctx ends.
func with(ctx context.Context, c *net.TCPConn, do func(context.Context, *net.TCPConn)) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	do(ctx, c)
}

func pour(_ context.Context, c *net.TCPConn) {
	for block := make([]byte, 64<<10); ; {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

func drain(_ context.Context, c *net.TCPConn) {
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
}

func idle(ctx context.Context, _ *net.TCPConn) { <-ctx.Done() }

func abort(_ context.Context, c *net.TCPConn) { _ = c.SetLinger(0) }

// greet says something, finishes and reads what there is.
func greet(ctx context.Context, c *net.TCPConn) {
	_, _ = c.Write(make([]byte, 1000))
	_ = c.CloseWrite()
	drain(ctx, c)
}

// sip reads byte by byte, and slowly.
func sip(ctx context.Context, c *net.TCPConn) {
	for p := make([]byte, 1); ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if _, err := c.Read(p); err != nil {
			return
		}
	}
}

// trickle sends byte by byte, each for itself.
func trickle(ctx context.Context, c *net.TCPConn) {
	_ = c.SetNoDelay(true)
	for ctx.Err() == nil {
		if _, err := c.Write([]byte{1}); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
