// Package relaytest runs a relay inside a test, for everything that is a
// client: real TLS and tunnels over loopback, and pods that are addresses on
// this machine. It has no agents and decides nothing.
package relaytest

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Token is the only credential the relay accepts.
const Token = "a-token-for-tests-only"

// Relay is a relay that runs until its test ends. Fields must not be changed.
type Relay struct {
	// Addr is host:port of its listener.
	Addr string
	// CA is the certificate of its authority in PEM, Pin its pin.
	CA  []byte
	Pin string

	ctx    context.Context
	tls    *tls.Config
	ln     net.Listener
	calls  *rpc.Listener
	joiner forward.Joiner

	mu       sync.Mutex
	pods     map[string]string // namespace/name: address to dial
	sessions map[*tunnel.Session]struct{}
	opened   []stream.Open
}

// Start runs a relay without pods and ends it with the test.
func Start(t testing.TB) *Relay {
	t.Helper()
	sc, ca, pin := authority(t)
	ctx, cancel := context.WithCancel(context.Background())
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	r := &Relay{
		Addr: ln.Addr().String(), CA: ca, Pin: pin,
		ctx: ctx, tls: sc, ln: ln, calls: rpc.NewListener(),
		pods:     make(map[string]string),
		sessions: make(map[*tunnel.Session]struct{}),
	}
	server := rpc.NewServer()
	controlv1.RegisterViewServer(server, &view{relay: r})
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(r.calls) })
	all.Go(func() { r.accept(&all) })
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		r.Cut()
		server.Stop()
		all.Wait()
	})
	return r
}

// AddPod makes namespace/name reach addr, host:port, whatever the port asked
// for. An empty addr is a pod that listens on nothing.
func (r *Relay) AddPod(namespace, name, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods[namespace+"/"+name] = addr
}

// Cut ends all sessions without a word.
func (r *Relay) Cut() {
	r.mu.Lock()
	cut := make([]*tunnel.Session, 0, len(r.sessions))
	for s := range r.sessions {
		cut = append(cut, s)
	}
	r.mu.Unlock()
	for _, s := range cut {
		_ = s.Close()
	}
}

// Opened returns what was asked for so far.
func (r *Relay) Opened() []stream.Open {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]stream.Open(nil), r.opened...)
}

func (r *Relay) accept(all *sync.WaitGroup) {
	for {
		raw, err := r.ln.Accept()
		if err != nil {
			return
		}
		all.Go(func() { r.serve(raw) })
	}
}

func (r *Relay) serve(raw net.Conn) {
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	carrier, err := tunnel.HandshakeServer(ctx, raw, r.tls)
	if err != nil {
		return
	}
	if !greet(carrier) {
		_ = carrier.Close()
		return
	}
	s, err := tunnel.NewSession(carrier, false, tunnel.Config{})
	if err != nil {
		return
	}
	r.mu.Lock()
	r.sessions[s] = struct{}{}
	r.mu.Unlock()
	_ = s.Serve(r.ctx, r.stream)
	_ = s.Close()
	r.mu.Lock()
	delete(r.sessions, s)
	r.mu.Unlock()
}

// greet reads the credential and answers.
func greet(carrier *tunnel.Carrier) bool {
	_ = carrier.SetDeadline(time.Now().Add(10 * time.Second))
	hello, err := stream.ReadHello(carrier)
	if err != nil {
		return false
	}
	reply := &stream.Reply{}
	if hello.Credential != stream.CredentialToken || hello.Token != Token {
		reply = &stream.Reply{Code: stream.Unauthenticated, Text: "token is not known"}
	}
	if stream.WriteReply(carrier, reply) != nil || reply.Code != stream.OK {
		return false
	}
	return carrier.SetDeadline(time.Time{}) == nil
}

func (r *Relay) stream(st *tunnel.Stream) {
	_ = st.SetReadDeadline(time.Now().Add(10 * time.Second))
	o, err := stream.ReadOpen(st)
	if err != nil {
		_ = st.Reset()
		return
	}
	_ = st.SetReadDeadline(time.Time{})
	if o.Kind == stream.KindControl {
		_ = r.calls.Deliver(st, nil)
		return
	}
	pod, err := r.reach(o)
	reply := &stream.Reply{Code: stream.CodeOf(err)}
	if err != nil {
		reply.Text = err.Error()
	}
	if stream.WriteReply(st, reply) != nil || err != nil {
		if pod != nil {
			_ = pod.Close()
		}
		_ = st.Close()
		return
	}
	c := tunnel.NewConn(st)
	c.AbortCode = stream.PodReset
	_, _ = r.joiner.Join(r.ctx, c, forward.TCP(pod), nil)
}

func (r *Relay) reach(o *stream.Open) (*net.TCPConn, error) {
	r.mu.Lock()
	r.opened = append(r.opened, *o)
	addr, known := r.pods[o.Namespace+"/"+o.Pod]
	r.mu.Unlock()
	if !known {
		return nil, &stream.Error{Code: stream.PodNotFound, Text: "pod " + o.Namespace + "/" + o.Pod + " is on no node"}
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	c, err := d.DialContext(r.ctx, "tcp", addr)
	if err != nil {
		return nil, &stream.Error{Code: stream.NotListening, Text: "nothing listens in pod " + o.Namespace + "/" + o.Pod}
	}
	tc, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.New("not a TCP connection")
	}
	return tc, nil
}

// view answers clients.
type view struct {
	controlv1.UnimplementedViewServer
	relay *Relay
}

func (v *view) About(context.Context, *controlv1.AboutRequest) (*controlv1.AboutResponse, error) {
	return &controlv1.AboutResponse{RelayId: "relay-under-test", Version: "v0.0.1", ProtocolVersion: stream.Version, User: "client:token"}, nil
}

// Check lets everybody to every pod it knows, but for those in the namespace
// "denied".
func (v *view) Check(_ context.Context, req *controlv1.CheckRequest) (*controlv1.CheckResponse, error) {
	v.relay.mu.Lock()
	defer v.relay.mu.Unlock()
	name := req.GetNamespace() + "/" + req.GetPod()
	if req.GetNamespace() == "denied" {
		return &controlv1.CheckResponse{Steps: []*controlv1.CheckStep{
			{Name: "authorized", Code: uint32(stream.Forbidden), Detail: "client:token may not forward to " + name},
		}}, nil
	}
	resp := &controlv1.CheckResponse{Steps: []*controlv1.CheckStep{{Name: "authorized"}}}
	if _, known := v.relay.pods[name]; !known {
		resp.Steps = append(resp.Steps, &controlv1.CheckStep{
			Name: "located", Code: uint32(stream.PodNotFound), Detail: "pod " + name + " is on no node",
		})
		return resp, nil
	}
	resp.Steps = append(resp.Steps, &controlv1.CheckStep{Name: "located", Detail: "node node-a"},
		&controlv1.CheckStep{Name: "agent"}, &controlv1.CheckStep{Name: "policy"})
	resp.Node, resp.Uid, resp.AgentVersion = "node-a", "uid-of-"+req.GetPod(), "v0.0.1"
	return resp, nil
}

func (v *view) ListPods(_ context.Context, req *controlv1.ListPodsRequest) (*controlv1.ListPodsResponse, error) {
	v.relay.mu.Lock()
	defer v.relay.mu.Unlock()
	resp := new(controlv1.ListPodsResponse)
	for key := range v.relay.pods {
		namespace, name, _ := strings.Cut(key, "/")
		p := &controlv1.Pod{Namespace: namespace, Name: name, Uid: "uid-of-" + name, Node: "node-a", Created: epoch()}
		if req.GetNamespace() == "" || req.GetNamespace() == p.GetNamespace() {
			resp.Pods = append(resp.Pods, p)
		}
	}
	return resp, nil
}

func (v *view) ListNodes(context.Context, *controlv1.ListNodesRequest) (*controlv1.ListNodesResponse, error) {
	return &controlv1.ListNodesResponse{Nodes: []*controlv1.NodeInfo{
		{Name: "node-b", Version: "v0.0.1", Tunnels: 1, GoingAway: true, Connected: epoch(), RemoteAddr: "192.0.2.2:4000"},
		{Name: "node-a", Version: "v0.0.1", Tunnels: 2, Streams: 3, Pods: 4, Connected: epoch(), RemoteAddr: "192.0.2.1:4000"},
	}}, nil
}

func (v *view) ListStreams(context.Context, *controlv1.ListStreamsRequest) (*controlv1.ListStreamsResponse, error) {
	return &controlv1.ListStreamsResponse{Streams: []*controlv1.StreamInfo{{
		Id: "00112233445566778899aabbccddeeff", User: "client:token", ClientAddr: "192.0.2.9:5000",
		Node: "node-a", Namespace: "default", Pod: "web", Port: 80, Started: epoch(), BytesUp: 1234, BytesDown: 5678901,
	}}}, nil
}

// epoch is long ago, so that ages in tables do not change while a test runs.
func epoch() *timestamppb.Timestamp {
	return timestamppb.New(time.Now().Add(-36*time.Hour - 30*time.Minute))
}
