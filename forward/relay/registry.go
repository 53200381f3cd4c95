package relay

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	maxWord         = 64 // instance, version, name of a capability; bytes
	maxCapabilities = 32
	maxReason       = 256 // of what is logged, in bytes
	maxOthers       = 256 // tunnels of an agent that it names
)

// registryService answers agents.
type registryService struct {
	controlv1.UnimplementedRegistryServer
	srv *Server
}

// caller returns the session a call came over, if its peer may still be here.
func caller(ctx context.Context) (*peer, error) {
	p, ok := rpc.Peer(ctx).(*peer)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "call came over no session")
	}
	if err := p.valid(ctx); err != nil {
		return nil, statusOf(err)
	}
	return p, nil
}

// Join sells a joiner a certificate, one for each session.
func (r *registryService) Join(ctx context.Context, req *controlv1.JoinRequest) (*controlv1.JoinResponse, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if p.who().Role != RoleJoiner || r.srv.cfg.Issuer == nil {
		return nil, status.Error(codes.PermissionDenied, "this session did not present a join token")
	}
	if err := checkCSR(req.GetCsr()); err != nil {
		return nil, err
	}
	if !p.joined.CompareAndSwap(false, true) {
		return nil, status.Error(codes.ResourceExhausted, "this session has asked for a certificate already: connect again")
	}
	chain, renewAt, err := r.srv.cfg.Issuer.IssueNode(req.GetCsr())
	p.soon()
	from := p.sess.RemoteAddr().String()
	if err != nil {
		r.srv.metrics.refused("join")
		r.srv.noise.warn(ctx, "join refused", "from", from, "err", err)
		return nil, statusOf(err)
	}
	r.srv.cfg.Log.Info("node joined", "node", nameIn(chain), "from", from)
	return &controlv1.JoinResponse{Chain: chain, RenewAt: timestamppb.New(renewAt)}, nil
}

// Attend registers the tunnel it comes over, for as long as the call lasts.
func (r *registryService) Attend(call attendCall) error {
	p, err := caller(call.Context())
	if err != nil {
		return err
	}
	first, err := call.Recv()
	if err != nil {
		return err
	}
	reg := first.GetRegister()
	if err := mayRegister(p, reg); err != nil {
		r.srv.metrics.refused("registration")
		r.srv.noise.warn(call.Context(), "registration refused", "node", p.who().Name,
			"claimed", clip(reg.GetNode()), "from", p.sess.RemoteAddr().String(), "err", err)
		return err
	}
	// A tunnel is worth nothing without its registration.
	defer p.soon()
	defer p.attends.Store(departed)

	t := newTunnelTo(p.sess, reg)
	t.byCert = p.who().Cert != nil
	sameAs, err := r.srv.nodes.add(t)
	if err != nil {
		return r.nameTaken(call.Context(), t)
	}
	defer r.srv.nodes.remove(t)
	if err := call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_Registered{Registered: &controlv1.Registered{
		RelayId: r.srv.id, Version: r.srv.cfg.Version, ProtocolVersion: stream.Version, WantPods: r.srv.byReport(), SameAs: sameAs,
	}}}); err != nil {
		return err
	}
	if sameAs != 0 {
		r.srv.metrics.refused("second-tunnel")
		r.srv.cfg.Log.Debug("node has a tunnel already", "node", t.node, "from", p.sess.RemoteAddr().String())
		return nil
	}
	r.srv.cfg.Log.Info("node registered", "node", t.node, "instance", t.instance, "version", t.version, "from", p.sess.RemoteAddr().String())
	if !r.srv.Ready() {
		t.announce(r.srv.farewell())
	}
	var talking sync.WaitGroup
	defer talking.Wait()
	hearing := make(chan struct{})
	defer close(hearing)
	told := r.srv.audience.enter()
	talking.Go(func() { defer told(); r.talk(call, t, hearing) })
	return r.listen(call, p, t)
}

// talk tells an agent who the peers are, each time that changes, and at last that
// the relay goes away. It returns then, or when nobody hears it any more.
func (r *registryService) talk(call attendCall, t *tunnelTo, hearing <-chan struct{}) {
	peers := r.srv.peers
	for {
		addrs, changed := peers.now()
		if len(addrs) > 0 {
			m := peers.message(addrs, r.srv.nodes.len())
			if call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_Peers{Peers: m}}) != nil {
				return
			}
		}
		select {
		case <-changed:
		case g := <-t.farewell:
			_ = call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_GoingAway{GoingAway: g}})
			return
		case <-hearing:
			return
		}
	}
}

func (r *registryService) nameTaken(ctx context.Context, t *tunnelTo) error {
	r.srv.metrics.refused("registration")
	r.srv.noise.warn(ctx, "a certificate claims a node that is here with a token of the cluster", "node", t.node, "from", t.sess.RemoteAddr().String())
	return status.Errorf(codes.AlreadyExists, "node %q is here with a token of the cluster, which goes before a certificate", t.node)
}

// attendCall is the relay's end of Attend.
type attendCall = grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse]

// listen takes reports until the agent ends the call, or its tunnel does.
func (r *registryService) listen(call attendCall, p *peer, t *tunnelTo) error {
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.valid(call.Context()); err != nil {
			return statusOf(err)
		}
		switch {
		case m.GetPods() != nil:
			rival, err := r.srv.nodes.change(t, m.GetPods())
			if err != nil {
				r.srv.metrics.refused("report")
				r.srv.noise.warn(call.Context(), "report refused", "node", t.node, "err", err)
				return status.Error(codes.InvalidArgument, err.Error())
			}
			if rival != nil {
				r.srv.noise.warn(call.Context(), "two nodes report one pod",
					"pod", rival.GetNamespace()+"/"+rival.GetName(), "node", t.node, "other", rival.GetNode())
			}
		case m.GetGoingAway() != nil:
			r.srv.nodes.leaving(t)
			r.srv.cfg.Log.Info("node is going away", "node", t.node, "reason", clip(m.GetGoingAway().GetReason()))
		}
	}
}

// mayRegister holds what an agent claims against what it proved.
func mayRegister(p *peer, reg *controlv1.Register) error {
	who := p.who()
	switch {
	case reg == nil:
		return status.Error(codes.InvalidArgument, "the first message must be a registration")
	case who.Role != RoleNode:
		return status.Error(codes.PermissionDenied, "a join token buys a certificate and nothing else: connect again with it")
	case reg.GetNode() != who.Name:
		return status.Errorf(codes.PermissionDenied, "this credential is for node %q", who.Name)
	case reg.GetInstance() == "" || len(reg.GetInstance()) > maxWord || len(reg.GetVersion()) > maxWord,
		len(reg.GetCapabilities()) > maxCapabilities, len(reg.GetOthers()) > maxOthers,
		slices.ContainsFunc(reg.GetCapabilities(), func(c string) bool { return len(c) > maxWord }):
		return status.Error(codes.InvalidArgument, "registration is out of bounds")
	}
	if !p.attends.CompareAndSwap(unregistered, registered) {
		return status.Error(codes.AlreadyExists, "this tunnel is registered already")
	}
	return nil
}

// clip cuts what a peer said to the length of a log line.
func clip(s string) string { return clipTo(s, maxReason) }

func clipTo(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}

// statusOf gives an error of ours the closest code of gRPC, and the text that
// a peer may see.
func statusOf(err error) error {
	if made := (interface{ GRPCStatus() *status.Status })(nil); errors.As(err, &made) {
		return err // it is one already
	}
	code := codes.Internal
	switch stream.CodeOf(err) {
	case stream.NameTaken:
		code = codes.AlreadyExists
	case stream.Unauthenticated:
		code = codes.Unauthenticated
	case stream.Forbidden, stream.Policy:
		code = codes.PermissionDenied
	case stream.Malformed:
		code = codes.InvalidArgument
	case stream.Overloaded:
		code = codes.ResourceExhausted
	case stream.Timeout:
		code = codes.DeadlineExceeded
	}
	text := stream.TextOf(err)
	if text == "" {
		text = stream.CodeOf(err).String()
	}
	return status.Error(code, text)
}
