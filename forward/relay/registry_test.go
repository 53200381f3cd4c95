package relay

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// calls returns a client of the control plane on a link.
func (l *link) calls() *grpc.ClientConn {
	l.t.Helper()
	cc, err := connect.Control(l.far)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

type attendance = grpc.BidiStreamingClient[controlv1.AttendRequest, controlv1.AttendResponse]

func (l *link) attend(reg *controlv1.Register) (attendance, *controlv1.Registered, error) {
	l.t.Helper()
	call, err := controlv1.NewRegistryClient(l.calls()).Attend(within(l.t))
	if err != nil {
		l.t.Fatal(err)
	}
	m := &controlv1.AttendRequest{}
	if reg != nil {
		m.Kind = &controlv1.AttendRequest_Register{Register: reg}
	}
	_ = call.Send(m) // what is wrong, Recv says
	answer, err := call.Recv()
	return call, answer.GetRegistered(), err
}

func sendPods(t *testing.T, call attendance, c *controlv1.PodChanges) {
	t.Helper()
	if err := call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Pods{Pods: c}}); err != nil {
		t.Fatal(err)
	}
}

func TestRegistration(t *testing.T) {
	good := func() *controlv1.Register {
		return &controlv1.Register{Node: "node-a", Instance: "i", Version: "v1", Capabilities: []string{"host-network"}}
	}
	long := strings.Repeat("x", 1000)
	for name, tc := range map[string]struct {
		role   Role
		reg    func() *controlv1.Register
		change func(*controlv1.Register)
		code   codes.Code
	}{
		"good":             {RoleNode, good, nil, codes.OK},
		"nothing":          {RoleNode, func() *controlv1.Register { return nil }, nil, codes.InvalidArgument},
		"another node":     {RoleNode, good, func(r *controlv1.Register) { r.Node = "node-b" }, codes.PermissionDenied},
		"no node":          {RoleNode, good, func(r *controlv1.Register) { r.Node = "" }, codes.PermissionDenied},
		"joiner":           {RoleJoiner, good, nil, codes.PermissionDenied},
		"user":             {RoleUser, good, nil, codes.Unimplemented},
		"no instance":      {RoleNode, good, func(r *controlv1.Register) { r.Instance = "" }, codes.InvalidArgument},
		"long instance":    {RoleNode, good, func(r *controlv1.Register) { r.Instance = long }, codes.InvalidArgument},
		"long version":     {RoleNode, good, func(r *controlv1.Register) { r.Version = long }, codes.InvalidArgument},
		"long capability":  {RoleNode, good, func(r *controlv1.Register) { r.Capabilities = []string{long} }, codes.InvalidArgument},
		"too many of them": {RoleNode, good, func(r *controlv1.Register) { r.Capabilities = make([]string, 100) }, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.control()
			l := r.connect(Identity{Role: tc.role, Name: "node-a"}, tunnel.Config{})
			reg := tc.reg()
			if tc.change != nil {
				tc.change(reg)
			}
			_, answer, err := l.attend(reg)
			if status.Code(err) != tc.code {
				t.Fatalf("%v, want %s", err, tc.code)
			}
			if tc.code == codes.OK && (!answer.GetWantPods() || answer.GetRelayId() != r.s.ID()) {
				t.Errorf("answer %v", answer)
			}
			if want := tc.code == codes.OK; (r.s.nodes.len() == 1) != want {
				t.Errorf("%d nodes", r.s.nodes.len())
			}
		})
	}
}

func TestRegistrationIsTheTunnel(t *testing.T) {
	r := newRig(t, Config{})
	r.control()
	l := r.connect(Identity{Role: RoleNode, Name: "node-a"}, tunnel.Config{})
	reg := &controlv1.Register{Node: "node-a", Instance: "i"}
	call, _, err := l.attend(reg)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.attend(reg); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a second registration of one tunnel: %v", err)
	}
	sendPods(t, call, report(true, "shop/web=uid-1"))
	eventually(t, "the pod is known", func() bool { return len(r.s.nodes.listPods("shop")) == 1 })
	if len(r.s.nodes.listPods("other")) != 0 {
		t.Error("a pod of another namespace")
	}
	_ = call.CloseSend()
	if _, err := call.Recv(); err == nil || l.far.Err() != nil {
		t.Errorf("after the end of the registration: %v, session %v", err, l.far.Err())
	}
	<-l.far.Done()
	if r.s.nodes.len()+len(r.s.nodes.listPods("")) != 0 {
		t.Error("something of the node is left")
	}
}

func TestLostTunnelIsGone(t *testing.T) {
	r := newRig(t, Config{})
	r.control()
	l := r.connect(Identity{Role: RoleNode, Name: "node-a"}, tunnel.Config{})
	call, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: "i"})
	if err != nil {
		t.Fatal(err)
	}
	sendPods(t, call, report(true, "shop/web=uid-1"))
	_ = l.raw.Close()
	eventually(t, "the node is gone", func() bool { return r.s.nodes.len()+len(r.s.nodes.listPods("")) == 0 })
}

func TestBadReportEndsTheRegistration(t *testing.T) {
	r := newRig(t, Config{MaxPodsPerNode: 2})
	r.control()
	l := r.connect(Identity{Role: RoleNode, Name: "node-a"}, tunnel.Config{})
	call, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: "i"})
	if err != nil {
		t.Fatal(err)
	}
	sendPods(t, call, report(true, "s/a=1", "s/b=2", "s/c=3"))
	if _, err := call.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
	<-l.far.Done()
	if n := len(r.s.nodes.listPods("")); n != 0 {
		t.Errorf("%d pods are left", n)
	}
}

// A node that is forgotten loses its tunnel with its next report.
func TestForgottenNodeIsCutAtItsNextWord(t *testing.T) {
	r := newRig(t, Config{})
	r.control()
	l := r.connect(Identity{Role: RoleNode, Name: "node-a"}, tunnel.Config{})
	call, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: "i"})
	if err != nil {
		t.Fatal(err)
	}
	r.judge.set(func(Identity) error { return &stream.Error{Code: stream.Unauthenticated, Text: "forgotten"} })
	sendPods(t, call, report(true, "shop/web=uid-1"))
	<-l.far.Done()
	eventually(t, "the node is gone", func() bool { return r.s.nodes.len() == 0 })
}

// issuer issues the same to everybody.
type issuer struct {
	chain [][]byte
	err   error
	peer  *x509.Certificate
}

func (i *issuer) IssueNode([]byte) ([][]byte, time.Time, error) {
	return i.chain, time.Unix(1e9, 0), i.err
}

func (i *issuer) RenewNode(peer *x509.Certificate, _ []byte) ([][]byte, time.Time, error) {
	i.peer = peer
	return i.chain, time.Unix(1e9, 0), i.err
}

func TestJoin(t *testing.T) {
	leaf := selfSigned(t, "node-a")
	for name, tc := range map[string]struct {
		role   Role
		issuer Issuer
		csr    []byte
		code   codes.Code
	}{
		"good":      {RoleJoiner, &issuer{chain: [][]byte{leaf.Raw}}, []byte("csr"), codes.OK},
		"node":      {RoleNode, &issuer{}, []byte("csr"), codes.PermissionDenied},
		"no issuer": {RoleJoiner, nil, []byte("csr"), codes.PermissionDenied},
		"too long":  {RoleJoiner, &issuer{}, make([]byte, maxCSR+1), codes.InvalidArgument},
		"taken":     {RoleJoiner, &issuer{err: &stream.Error{Code: stream.NameTaken, Text: "taken"}}, nil, codes.AlreadyExists},
		"fault":     {RoleJoiner, &issuer{err: errors.New("open /secret: full")}, nil, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Issuer: tc.issuer})
			r.control()
			l := r.connect(Identity{Role: tc.role, Name: "somebody"}, tunnel.Config{})
			client := controlv1.NewRegistryClient(l.calls())
			answer, err := client.Join(within(t), &controlv1.JoinRequest{Csr: tc.csr})
			if status.Code(err) != tc.code || err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, want %s", err, tc.code)
			}
			if tc.code != codes.OK {
				return
			}
			if len(answer.GetChain()) != 1 || answer.GetRenewAt().GetSeconds() != 1e9 {
				t.Errorf("answer %v", answer)
			}
			if _, err := client.Join(within(t), &controlv1.JoinRequest{Csr: tc.csr}); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("a second certificate for one session: %v", err)
			}
			<-l.far.Done() // it has what it came for
			if lines := r.log.all(t, "node joined"); len(lines) != 1 || lines[0]["node"] != "node-a" {
				t.Errorf("logged %v", lines)
			}
		})
	}
}

// A renewed certificate takes the place of the old one for the session, too.
func TestRenewKeepsTheTunnel(t *testing.T) {
	before, after := selfSigned(t, "node-a"), selfSigned(t, "node-a")
	is := &issuer{chain: [][]byte{after.Raw}}
	r := newRig(t, Config{Issuer: is})
	r.control()
	l := r.connect(Identity{Role: RoleNode, Name: "node-a", Cert: before}, tunnel.Config{})
	call, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: "i"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := controlv1.NewRegistryClient(l.calls()).Renew(within(t), &controlv1.RenewRequest{Csr: []byte("csr")}); err != nil {
		t.Fatal(err)
	}
	if !is.peer.Equal(before) || !l.peer.who().Cert.Equal(after) {
		t.Error("the session still stands on the old certificate")
	}
	r.judge.set(func(who Identity) error {
		if who.Role == RoleNode && !who.Cert.Equal(after) {
			return &stream.Error{Code: stream.Unauthenticated}
		}
		return nil
	})
	sendPods(t, call, report(true, "shop/web=uid-1"))
	eventually(t, "the pod is known", func() bool { return len(r.s.nodes.listPods("")) == 1 })

	joiner := r.connect(Identity{Role: RoleJoiner, Name: "joiner"}, tunnel.Config{})
	if _, err := controlv1.NewRegistryClient(joiner.calls()).Renew(within(t), &controlv1.RenewRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a joiner renews: %v", err)
	}
}

func TestView(t *testing.T) {
	r := newRig(t, Config{Version: "v9"})
	r.control()
	client := r.client()
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1", "shop/db=uid-2", "bank/db=uid-3")
	p := r.forward(client, node)
	v := controlv1.NewViewClient(client.calls())
	if a, err := v.About(within(t), &controlv1.AboutRequest{}); err != nil || a.GetUser() != "alice" || a.GetVersion() != "v9" {
		t.Errorf("%v, %v", a, err)
	}
	if a, err := v.ListNodes(within(t), &controlv1.ListNodesRequest{}); err != nil || len(a.GetNodes()) != 1 ||
		a.GetNodes()[0].GetStreams() != 1 || a.GetNodes()[0].GetPods() != 3 {
		t.Errorf("%v, %v", a, err)
	}
	if a, err := v.ListPods(within(t), &controlv1.ListPodsRequest{Namespace: "shop"}); err != nil || len(a.GetPods()) != 2 || a.GetPods()[0].GetName() != "db" {
		t.Errorf("%v, %v", a, err)
	}
	write(t, p.client, data("four"))
	_ = next(p.agent)
	a, err := v.ListStreams(within(t), &controlv1.ListStreamsRequest{})
	if err != nil || len(a.GetStreams()) != 1 {
		t.Fatalf("%v, %v", a, err)
	}
	if s := a.GetStreams()[0]; s.GetUser() != "alice" || s.GetBytesUp() != 4 || s.GetPod() != "web" || s.GetNode() != "node-a" {
		t.Errorf("%v", s)
	}
	if _, err := controlv1.NewRegistryClient(client.calls()).Join(within(t), &controlv1.JoinRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a client joins: %v", err)
	}
	r.judge.set(func(Identity) error { return &stream.Error{Code: stream.Unauthenticated, Text: "token replaced"} })
	if _, err := v.ListPods(within(t), &controlv1.ListPodsRequest{}); err == nil {
		t.Error("a client without a good token is shown pods")
	}
	<-client.far.Done()
}

// Where some agents have tokens and others certificates, whoever may buy a
// certificate for any free name does not get the streams of a node that is here
// with a token.
func TestTokensGoBeforeCertificates(t *testing.T) {
	r := newRig(t, Config{})
	r.control()
	cert := Identity{Role: RoleNode, Name: "node-a", Cert: &x509.Certificate{}}
	token := Identity{Role: RoleNode, Name: "node-a"}
	come := func(who Identity, instance string) (*link, attendance, error) {
		l := r.connect(who, tunnel.Config{})
		call, _, err := l.attend(&controlv1.Register{Node: "node-a", Instance: instance})
		return l, call, err
	}
	first := func(want *link, n int) {
		t.Helper()
		eventually(t, "the tunnels are as they should be", func() bool {
			ts, _ := r.s.nodes.tunnels("node-a")
			return len(ts) == n && ts[0].sess == want.near
		})
	}
	claimed, _, err := come(cert, "c1")
	if err != nil {
		t.Fatal(err)
	}
	first(claimed, 1)
	genuine, call, err := come(token, "t1")
	if err != nil {
		t.Fatal(err)
	}
	first(genuine, 2)
	if _, _, err := come(cert, "c2"); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a certificate beside a token: %v", err)
	}
	first(genuine, 2)
	if err := call.CloseSend(); err != nil {
		t.Fatal(err)
	}
	first(claimed, 1)
	again, _, err := come(cert, "c3")
	if err != nil {
		t.Fatal(err)
	}
	first(again, 2)
	_, _ = r.s.nodes.add(&tunnelTo{node: "node-b"})
	if _, err := r.s.nodes.add(&tunnelTo{node: "node-b", byCert: true}); err == nil {
		t.Error("taken in the last moment")
	}
}
