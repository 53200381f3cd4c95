package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// patience is how long anything here may take before it counts as hanging.
const patience = 30 * time.Second

// judge authenticates whoever comes, and revalidates with a function.
type judge struct {
	mu    sync.Mutex
	again func(Identity) error
	asked int
}

func (*judge) Authenticate(context.Context, tls.ConnectionState, *stream.Hello) (Identity, error) {
	return Identity{Role: RoleUser, Name: "somebody"}, nil
}

func (j *judge) Revalidate(_ context.Context, who Identity) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked++
	if j.again == nil {
		return nil
	}
	return j.again(who)
}

func (j *judge) set(f func(Identity) error) {
	j.mu.Lock()
	j.again = f
	j.mu.Unlock()
}

// lines is a log that can be read again.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// all returns the lines with the given message.
func (l *lines) all(t testing.TB, msg string) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(l.buf.String()) {
		m := make(map[string]any)
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if m["msg"] == msg {
			out = append(out, m)
		}
	}
	return out
}

// rig is a relay without its front door: sessions are pipes, and whoever
// connects is who the test says.
type rig struct {
	t     testing.TB
	s     *Server
	judge *judge
	log   *lines
	wire  func(net.Conn) net.Conn // wraps what the relay writes to; nil: nothing

	ctx  context.Context
	end  context.CancelCauseFunc
	work sync.WaitGroup
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, judge: &judge{}, log: &lines{}}
	cfg.TLS, cfg.Auth = &tls.Config{}, r.judge
	if cfg.SettleTime == 0 {
		cfg.SettleTime = -1
	}
	if cfg.ReturnTime == 0 {
		cfg.ReturnTime = -1
	}
	cfg.Log = slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if r.s, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	r.ctx, r.end = context.WithCancelCause(context.Background())
	t.Cleanup(func() {
		r.end(errShutdown)
		r.work.Wait()
		if n := r.s.flows.len(); n != 0 {
			t.Errorf("%d streams are left", n)
		}
	})
	return r
}

// control serves the control planes until the test ends.
func (r *rig) control() {
	for l, g := range map[*rpc.Listener]*grpc.Server{r.s.agents: r.s.registry(), r.s.clients: r.s.view()} {
		r.work.Go(func() { _ = g.Serve(l) })
		r.t.Cleanup(g.Stop) // runs before the wait
	}
}

// link is one session of the rig: the far end, and the relay's.
type link struct {
	t    testing.TB
	far  *tunnel.Session
	near *tunnel.Session
	peer *peer
	raw  net.Conn // beneath far
}

// connect makes a session for a peer that was admitted.
func (r *rig) connect(who Identity, cfg tunnel.Config) *link {
	r.t.Helper()
	a, b := net.Pipe()
	if r.wire != nil {
		b = r.wire(b)
	}
	near, err := tunnel.NewSession(tunnel.Plain(b), false, r.s.cfg.Tunnel)
	if err != nil {
		r.t.Fatal(err)
	}
	l := &link{t: r.t, near: near, peer: newPeer(r.s, who, near), raw: a}
	r.work.Go(func() {
		err := l.peer.serve(r.ctx)
		_ = near.CloseWithError(err)
	})
	if l.far, err = tunnel.NewSession(tunnel.Plain(a), true, cfg); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = l.far.Close() })
	return l
}

func (r *rig) client() *link {
	r.t.Helper()
	return r.connect(Identity{Role: RoleUser, Name: "alice"}, tunnel.Config{})
}

// node connects a node and registers it without the control plane.
func (r *rig) node(name string) (*link, *tunnelTo) {
	r.t.Helper()
	l := r.connect(Identity{Role: RoleNode, Name: name}, tunnel.Config{})
	l.peer.attends.Store(registered)
	t := newTunnelTo(l.near, &controlv1.Register{Node: name, Instance: "i-" + name})
	r.s.nodes.add(t)
	return l, t
}

// report makes a tunnel report pods as namespace/name=uid.
func (r *rig) report(t *tunnelTo, pods ...string) {
	r.t.Helper()
	if _, err := r.s.nodes.change(t, report(false, pods...)); err != nil {
		r.t.Fatal(err)
	}
}

func report(full bool, pods ...string) *controlv1.PodChanges {
	c := &controlv1.PodChanges{Full: full}
	for _, p := range pods {
		name, uid, _ := strings.Cut(p, "=")
		ns, name, _ := strings.Cut(name, "/")
		c.Upsert = append(c.Upsert, &controlv1.Pod{Namespace: ns, Name: name, Uid: uid})
	}
	return c
}

// ask opens a stream to a pod and does not wait for the answer.
func (l *link) ask(namespace, pod string) *tunnel.Stream {
	l.t.Helper()
	return l.open(&stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: namespace, Pod: pod, Port: 80})
}

func (l *link) open(o *stream.Open) *tunnel.Stream {
	l.t.Helper()
	st, err := connect.Open(within(l.t), l.far, o)
	if err != nil {
		l.t.Fatal(err)
	}
	return st
}

// accept takes the next stream the relay opens.
func (l *link) accept() (*tunnel.Stream, *stream.Open) {
	l.t.Helper()
	st, err := l.far.Accept(within(l.t))
	if err != nil {
		l.t.Fatal(err)
	}
	o, err := stream.ReadOpen(st)
	if err != nil {
		l.t.Fatal(err)
	}
	return st, o
}

// within returns a context for what must not hang.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pair is a stream through the relay that the pod has accepted.
type pair struct {
	client, agent *tunnel.Stream
}

// forward makes a stream from a client to a node.
func (r *rig) forward(client, node *link) pair {
	r.t.Helper()
	c := client.ask("shop", "web")
	a, _ := node.accept()
	answer(r.t, a, stream.OK, "")
	if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.OK {
		r.t.Fatalf("reply %+v, %v", reply, err)
	}
	return pair{c, a}
}

func answer(t testing.TB, st *tunnel.Stream, code stream.Code, text string) {
	t.Helper()
	if err := stream.WriteReply(st, &stream.Reply{Version: stream.Version, Code: code, Text: text}); err != nil {
		t.Fatal(err)
	}
}

// quiet waits until no stream is left on the relay's sessions.
func (r *rig) quiet(links ...*link) {
	r.t.Helper()
	eventually(r.t, "no stream is left", func() bool {
		for _, l := range links {
			if l.near.NumStreams() != 0 || l.far.Err() == nil && l.far.NumStreams() != 0 {
				return false
			}
		}
		return r.s.flows.len() == 0
	})
}

// verdict waits for the one line of the nth stream, counted from 1, and
// returns its code.
func (r *rig) verdict(n int) string {
	r.t.Helper()
	eventually(r.t, "the stream is logged", func() bool { return len(r.log.all(r.t, "stream")) >= n })
	all := r.log.all(r.t, "stream")
	if len(all) != n {
		r.t.Errorf("%d lines for %d streams", len(all), n)
	}
	code, _ := all[n-1]["code"].(string)
	return code
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<18)
			t.Fatalf("never came: %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// bubble runs f with fake time. yamux keeps timers in a pool, and a timer must
// not cross into or out of a bubble: two collections empty every sync.Pool.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	empty := func() {
		runtime.GC()
		runtime.GC()
	}
	empty()
	defer empty() // after a failure too
	synctest.Test(t, f)
}
