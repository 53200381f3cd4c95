package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// dialHanging never reaches a pod.
var dialHanging = reachtest.DialFunc(func(ctx context.Context, _ sandbox.Pod, _ uint16) (forward.Socket, error) {
	<-ctx.Done()
	return nil, ctx.Err()
})

// TestBadOpen sends what is no request. Each is refused on its own, and the
// tunnel goes on.
func TestBadOpen(t *testing.T) {
	whole, err := stream.AppendOpen(nil, &stream.Open{Kind: stream.KindForward, UID: "uid-1", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, &relay{})
	a := start(t, Config{OpenTimeout: 200 * time.Millisecond}, r)
	l := r.tunnel(t, 1)
	for _, tt := range []struct {
		name string
		send []byte
		fin  bool
		code stream.Code
	}{
		{"too long", []byte{1, 1, 0xff, 0xff}, false, stream.Malformed},
		{"no such kind", []byte{1, 9, 0, 18, 18: 0, 21: 0}, false, stream.Unsupported},
		{"version 0", []byte{0, 1, 0, 18, 18: 0, 21: 80}, false, stream.Malformed},
		{"cut short", whole[:len(whole)-1], true, stream.Internal},
		{"nothing", nil, true, stream.Internal},
		{"half, and then silence", whole[:len(whole)-1], false, stream.Timeout},
		{"silence", nil, false, stream.Timeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st, err := l.sess.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			_ = st.SetDeadline(time.Now().Add(limit))
			if _, err := st.Write(tt.send); err != nil {
				t.Fatal(err)
			}
			if tt.fin {
				st.CloseWrite()
			}
			reply, err := stream.ReadReply(st)
			if err != nil || reply.Code != tt.code {
				t.Fatalf("answer %+v, %v; want %s", reply, err, tt.code)
			}
			if _, err := st.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the answer: %v", err)
			}
		})
	}
	if n := len(a.log.wait(t, "stream without a request", 7)); n != 7 {
		t.Errorf("%d lines", n)
	}
	if n := a.running.Load(); n != 0 {
		t.Errorf("%d streams run", n)
	}
	if n, _, _ := r.counts(); n != 1 {
		t.Errorf("%d tunnels", n)
	}
}

// TestFloodOfStreams opens more than there may be: what is too much is reset, and
// what is there is served.
func TestFloodOfStreams(t *testing.T) {
	const most = 50
	pod := reachtest.Listen(t)
	r := startRelay(t, &relay{})
	a := start(t, Config{Tunnel: tunnel.Config{MaxStreams: most}, Pods: local(reachtest.DialTo(pod.Addr().String()), pod1)}, r)
	l := r.tunnel(t, 1)
	client := l.mustOpen(t, pod1.UID)
	end := reachtest.Accept(t, pod)
	reset := 0
	for range 4 * most {
		st, err := l.sess.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		_ = st.SetDeadline(time.Now().Add(limit))
		// A byte of a request, and no more: it takes a place.
		if _, err := st.Write([]byte{1}); errors.Is(err, forward.ErrReset) {
			reset++
			continue
		}
		if a.running.Load() > most {
			t.Fatalf("%d streams run", a.running.Load())
		}
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(end, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	t.Logf("%d of %d were reset while they were opened", reset, 4*most)
}

// TestPodsThatReadNothing uploads to pods that take nothing until there is no memory
// left for it. Who does so loses streams, and hears why; others lose nothing.
func TestPodsThatReadNothing(t *testing.T) {
	pod := reachtest.Listen(t)
	r := startRelay(t, &relay{})
	cfg := Config{Pods: local(reachtest.DialTo(pod.Addr().String()), pod1)}
	cfg.Tunnel.Memory = &tunnel.Memory{Limit: 4 << 20}
	a := start(t, cfg, r)
	l := r.tunnel(t, 1)
	ann, err := l.open(t, stream.Open{UID: pod1.UID, Port: 80, User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	hers := reachtest.Accept(t, pod)
	cut := make(chan error, 12)
	var writers sync.WaitGroup
	for range cap(cut) {
		c, err := l.open(t, stream.Open{UID: pod1.UID, Port: 80, User: "greedy"})
		if err != nil {
			t.Fatal(err)
		}
		_ = reachtest.Accept(t, pod).SetReadBuffer(4 << 10)
		writers.Go(func() {
			for err == nil {
				_, err = c.Write(make([]byte, 32<<10))
			}
		})
		writers.Go(func() {
			_, err := c.Read(make([]byte, 1))
			cut <- err
			_ = c.Close()
		})
	}
	for range cap(cut) / 3 {
		if err := <-cut; !errors.Is(err, &stream.Error{Code: stream.Overloaded}) && !errors.Is(err, forward.ErrReset) {
			t.Errorf("a stream ended with %v", err)
		}
	}
	for _, line := range a.log.wait(t, "stream", cap(cut)/3) {
		if line["code"] != "overloaded" || line["user"] != "greedy" {
			t.Errorf("%v", line)
		}
	}
	eventually(t, "there is room again", func() bool { return cfg.Tunnel.Memory.Usage().Unread <= 4<<20 })
	if _, err := ann.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(hers, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	_ = l.sess.Close()
	writers.Wait()
}

// TestFloodOfQuestions opens control streams and says nothing on them.
func TestFloodOfQuestions(t *testing.T) {
	r := startRelay(t, &relay{})
	start(t, Config{}, r)
	l := r.tunnel(t, 1)
	var held []*tunnel.Stream
	for range maxControls + 1 {
		held = append(held, openQuestion(t, l))
	}
	over := 0
	for _, st := range held {
		if err := firstByte(st); errors.Is(err, forward.ErrReset) {
			over++
		} else if err != nil { // the server's preface
			t.Errorf("a question: %v", err)
		}
	}
	if over != 1 {
		t.Errorf("%d of %d questions were reset, want 1", over, len(held))
	}
	for _, st := range held {
		st.Close()
	}
	eventually(t, "there is room for questions again", func() bool { return firstByte(openQuestion(t, l)) == nil })
}

func openQuestion(t *testing.T, l *link) *tunnel.Stream {
	t.Helper()
	st, err := connect.Open(t.Context(), l.sess, &stream.Open{Kind: stream.KindControl})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// firstByte says hello in HTTP/2 and waits for the answer.
func firstByte(st *tunnel.Stream) error {
	_ = st.SetDeadline(time.Now().Add(limit))
	if _, err := st.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return err
	}
	_, err := st.Read(make([]byte, 1))
	return err
}

// TestSlowPod gives up on a pod that does not accept, and on nothing else.
func TestSlowPod(t *testing.T) {
	r := startRelay(t, &relay{})
	a := start(t, Config{Pods: local(dialHanging, pod1), OpenTimeout: 50 * time.Millisecond}, r)
	_, err := r.tunnel(t, 1).open(t, stream.Open{UID: pod1.UID, Port: 80})
	if !errors.Is(err, &stream.Error{Code: stream.Timeout}) {
		t.Errorf("open: %v", err)
	}
	if line := a.log.wait(t, "stream", 1)[0]; line["code"] != "timeout" {
		t.Errorf("log: %v", line)
	}
}

// TestUnknownCode keeps the numbers that a peer makes up out of the metrics.
func TestUnknownCode(t *testing.T) {
	j := joinStream(t, itself, Config{})
	j.client.Reset(&stream.Error{Code: 999, Text: "from the future\x1b[2J"})
	line := j.log.wait(t, "stream", 1)[0]
	if reason, _ := line["reason"].(string); line["code"] != "unknown" || !strings.HasPrefix(reason, "code-999, client: ") || strings.Contains(reason, "\x1b") {
		t.Errorf("log: %v", line)
	}
	var metrics strings.Builder
	j.WriteMetrics(&metrics)
	if !strings.Contains(metrics.String(), `code="unknown"} 1`) || strings.Contains(metrics.String(), "999") {
		t.Errorf("metrics:\n%s", &metrics)
	}
}

// TestNotARelay dials somebody who accepts and never says a word.
func TestNotARelay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := start(t, Config{DialTimeout: 100 * time.Millisecond}, &relay{ca: newAuthority(t), addr: l.Addr().String()})
	if line := a.log.wait(t, "no tunnel", 1)[0]; line["err"] == nil {
		t.Errorf("log: %v", line)
	}
}
