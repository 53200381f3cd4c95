package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// limit is how long anything may take before it counts as hanging.
const limit = 20 * time.Second

const joinToken = "join-token-of-a-test"

// relay is the relay's end of tunnels, for tests. It behaves well unless a field
// says otherwise; fields must not be changed after start.
type relay struct {
	controlv1.UnimplementedRegistryServer

	ca   *authority
	addr string // of the listener; set it to start again where a relay was

	// greet answers a credential. nil: node certificates, and joinToken.
	greet func(cert *x509.Certificate, hello *stream.Hello) stream.Reply
	// attend takes the place of a registration. nil: a good one.
	attend func(call grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse]) error
	// life is how long certificates that it issues live, from 30 minutes ago on.
	// 0: two hours.
	life time.Duration
	// taken refuses joins because the name is taken.
	taken bool
	// frozen refuses renewals.
	frozen bool
	// id names it; empty: relay-under-test. With peers it tells agents of others,
	// and registers one tunnel of an instance, as a real one does.
	id    string
	peers *controlv1.Peers
	// token answers a renewal with a token. nil: it is taken.
	token func(token string) (*controlv1.RenewResponse, error)

	ctx   context.Context
	ln    net.Listener
	calls *rpc.Listener

	mu      sync.Mutex
	links   []*link // every one there ever was
	joined  int
	renewed int
	changed chan struct{} // closed and replaced at each change of the above
}

// link is one session of an agent.
type link struct {
	sess *tunnel.Session
	cert *x509.Certificate
	stop context.CancelFunc

	tokens []string // as they were shown, guarded by relay.mu

	// Guarded by relay.mu.
	reg   *controlv1.Register
	pods  map[string]*controlv1.Pod
	full  int
	bye   *controlv1.GoingAway
	leave chan *controlv1.GoingAway // what it says to the agent
}

// startRelay starts r and ends it with the test.
func startRelay(t testing.TB, r *relay) *relay {
	t.Helper()
	if r.ca == nil {
		r.ca = newAuthority(t)
	}
	cert := r.ca.server(t)
	tc, err := identity.ServerTLS(identity.ServerConfig{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
		AgentCAs:       func() *x509.CertPool { return r.ca.pool },
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.addr == "" {
		r.addr = "127.0.0.1:0"
	}
	if r.ln, err = net.Listen("tcp", r.addr); err != nil {
		t.Fatal(err)
	}
	r.addr, r.calls, r.changed = r.ln.Addr().String(), rpc.NewListener(), make(chan struct{})
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithCancel(context.Background())
	server := rpc.NewServer()
	controlv1.RegisterRegistryServer(server, r)
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(r.calls) })
	all.Go(func() {
		for {
			raw, err := r.ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.serve(raw, tc) })
		}
	})
	t.Cleanup(func() {
		cancel()
		r.ln.Close()
		server.Stop()
		all.Wait()
	})
	return r
}

func (r *relay) serve(raw net.Conn, tc *tls.Config) {
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	carrier, err := tunnel.HandshakeServer(ctx, raw, tc)
	if err != nil {
		return
	}
	var cert *x509.Certificate
	if certs := carrier.State().PeerCertificates; len(certs) > 0 {
		cert = certs[0]
	}
	hello, err := stream.ReadHello(carrier)
	if err != nil {
		carrier.Close()
		return
	}
	greet := r.greet
	if greet == nil {
		greet = welcome
	}
	reply := greet(cert, hello)
	if err := stream.WriteReply(carrier, &reply); err != nil || reply.Code != stream.OK {
		carrier.Close()
		return
	}
	sess, err := tunnel.NewSession(carrier, false, tunnel.Config{})
	if err != nil {
		return
	}
	defer sess.Close()
	life, stop := context.WithCancel(r.ctx)
	defer stop()
	l := &link{sess: sess, cert: cert, stop: stop, tokens: []string{hello.Token}, pods: make(map[string]*controlv1.Pod), leave: make(chan *controlv1.GoingAway, 100)}
	r.change(func() { r.links = append(r.links, l) })
	_ = sess.Serve(life, func(st *tunnel.Stream) {
		if open, err := stream.ReadOpen(st); err != nil || open.Kind != stream.KindControl {
			st.Reset()
			return
		}
		_ = r.calls.Deliver(st, l)
	})
	r.change(func() {})
}

// welcome is what a good relay answers.
func welcome(cert *x509.Certificate, hello *stream.Hello) stream.Reply {
	switch {
	case hello.Credential == stream.CredentialTLS && cert != nil:
		return stream.Reply{}
	case hello.Credential == stream.CredentialToken && strings.HasPrefix(hello.Token, tokenHead) && cert == nil:
		return stream.Reply{}
	case hello.Credential == stream.CredentialJoin && hello.Token == joinToken && cert == nil:
		return stream.Reply{}
	}
	return stream.Reply{Code: stream.Unauthenticated, Text: "who are you"}
}

// change makes a change and wakes all who wait for one.
func (r *relay) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits until ok holds; it is called under the lock.
func (r *relay) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := time.After(limit)
	for {
		r.mu.Lock()
		done, changed := ok(), r.changed
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("still not so at the relay: %s", what)
		}
	}
}

// counts returns how many sessions there ever were, and how many certificates
// were asked for.
func (r *relay) counts() (links, joined, renewed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.links), r.joined, r.renewed
}

// tunnel waits for the nth registered tunnel, from 1 on.
func (r *relay) tunnel(t testing.TB, n int) *link {
	t.Helper()
	var found *link
	r.await(t, "a tunnel is registered", func() bool {
		registered := slices.DeleteFunc(slices.Clone(r.links), func(l *link) bool { return l.reg == nil })
		if len(registered) >= n {
			found = registered[n-1]
		}
		return found != nil
	})
	return found
}

func (r *relay) Attend(call grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse]) error {
	if r.attend != nil {
		return r.attend(call)
	}
	l := rpc.Peer(call.Context()).(*link)
	first, err := call.Recv()
	if err != nil {
		return err
	}
	registered := &controlv1.Registered{RelayId: cmp.Or(r.id, "relay-under-test"), Version: "v0", WantPods: true}
	r.change(func() {
		if registered.SameAs = r.twin(first.GetRegister()); registered.GetSameAs() == 0 {
			l.reg = first.GetRegister()
		}
	})
	if err := call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_Registered{Registered: registered}}); err != nil || registered.GetSameAs() != 0 {
		return err
	}
	if r.peers != nil {
		if err := call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_Peers{Peers: r.peers}}); err != nil {
			return err
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- r.hear(call, l) }() // ends with the call
	for {
		select {
		case g := <-l.leave:
			if g == nil {
				return status.Error(codes.Aborted, "registration ended by the test")
			}
			if err := call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_GoingAway{GoingAway: g}}); err != nil {
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

// twin finds the tunnel that makes another one superfluous. mu is held.
func (r *relay) twin(reg *controlv1.Register) uint64 {
	for _, l := range r.links {
		if r.peers != nil && l.reg != nil && l.sess.Err() == nil && slices.Contains(reg.GetOthers(), l.reg.GetTunnel()) {
			return l.reg.GetTunnel()
		}
	}
	return 0
}

// alive returns how many tunnels there are.
func (r *relay) alive() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, l := range r.links {
		if l.reg != nil && l.sess.Err() == nil {
			n++
		}
	}
	return n
}

func (r *relay) hear(call grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse], l *link) error {
	for {
		m, err := call.Recv()
		if err != nil {
			return err
		}
		r.change(func() {
			if c := m.GetPods(); c != nil {
				if c.GetFull() {
					l.full++
					clear(l.pods)
				}
				for _, uid := range c.GetRemoved() {
					delete(l.pods, uid)
				}
				for _, p := range c.GetUpsert() {
					l.pods[p.GetUid()] = p
				}
			}
			if g := m.GetGoingAway(); g != nil {
				l.bye = g
			}
		})
	}
}

func (r *relay) Join(ctx context.Context, req *controlv1.JoinRequest) (*controlv1.JoinResponse, error) {
	if rpc.Peer(ctx).(*link).cert != nil {
		return nil, status.Error(codes.PermissionDenied, "has a certificate already")
	}
	if r.taken {
		return nil, status.Error(codes.AlreadyExists, "the name belongs to another key")
	}
	chain, err := r.issue(req.GetCsr())
	r.change(func() { r.joined++ })
	return &controlv1.JoinResponse{Chain: chain}, err
}

func (r *relay) Renew(ctx context.Context, req *controlv1.RenewRequest) (*controlv1.RenewResponse, error) {
	l := rpc.Peer(ctx).(*link)
	if r.frozen {
		return nil, status.Error(codes.Unavailable, "no renewals today")
	}
	if l.cert == nil && req.GetToken() != "" {
		r.change(func() { l.tokens = append(l.tokens, req.GetToken()) })
		if r.token != nil {
			return r.token(req.GetToken())
		}
		return &controlv1.RenewResponse{}, nil
	}
	if l.cert == nil {
		return nil, status.Error(codes.PermissionDenied, "has no certificate")
	}
	chain, err := r.issue(req.GetCsr())
	r.change(func() { r.renewed++ })
	return &controlv1.RenewResponse{Chain: chain}, err
}

func (r *relay) issue(csr []byte) ([][]byte, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	life := r.life
	if life == 0 {
		life = 2 * time.Hour
	}
	from := time.Now().Add(-30 * time.Minute)
	return r.ca.node(req.Subject.CommonName, req.PublicKey, from, from.Add(life))
}

// open opens a stream to a pod and waits for the answer.
func (l *link) open(t testing.TB, o stream.Open) (*tunnel.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	o.Kind, o.ID = stream.KindForward, stream.NewID()
	st, err := connect.Open(ctx, l.sess, &o)
	if err != nil {
		return nil, err
	}
	c := tunnel.NewConn(st)
	c.ExpectReply()
	if err := c.WaitReply(ctx); err != nil {
		c.Close()
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, nil
}

// mustOpen is open for a pod that is there.
func (l *link) mustOpen(t testing.TB, uid string) *tunnel.Conn {
	t.Helper()
	c, err := l.open(t, stream.Open{UID: uid, Port: 80, Namespace: "said", Pod: "by-relay", User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
