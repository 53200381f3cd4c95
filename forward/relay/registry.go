package relay

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	maxCSR          = 8 << 10
	maxInstance     = 64
	maxVersionText  = 64
	maxCapabilities = 32
)

// registryService answers agents.
type registryService struct {
	controlv1.UnimplementedRegistryServer
	srv *Server
}

// caller returns the session a call came over.
func caller(ctx context.Context) (*peer, error) {
	p, ok := rpc.Peer(ctx).(*peer)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "call came over no session")
	}
	return p, nil
}

// Join sells a joiner a certificate.
func (r *registryService) Join(ctx context.Context, req *controlv1.JoinRequest) (*controlv1.JoinResponse, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if p.who.Role != RoleJoiner || r.srv.cfg.Issuer == nil {
		return nil, status.Error(codes.PermissionDenied, "this session did not present a join token")
	}
	if len(req.GetCsr()) > maxCSR {
		return nil, status.Errorf(codes.InvalidArgument, "certificate request of %d bytes, at most %d are allowed", len(req.GetCsr()), maxCSR)
	}
	chain, renewAt, err := r.srv.cfg.Issuer.IssueNode(req.GetCsr())
	if err != nil {
		r.srv.cfg.Log.Warn("join refused", "from", p.sess.RemoteAddr().String(), "err", err)
		return nil, statusOf(err)
	}
	r.srv.cfg.Log.Info("node certificate issued", "from", p.sess.RemoteAddr().String())
	return &controlv1.JoinResponse{Chain: chain, RenewAt: timestamppb.New(renewAt)}, nil
}

// Renew replaces a node's certificate.
func (r *registryService) Renew(ctx context.Context, req *controlv1.RenewRequest) (*controlv1.RenewResponse, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if p.who.Role != RoleNode || r.srv.cfg.Issuer == nil {
		return nil, status.Error(codes.PermissionDenied, "this relay renews only what it issued")
	}
	if len(req.GetCsr()) > maxCSR {
		return nil, status.Errorf(codes.InvalidArgument, "certificate request of %d bytes, at most %d are allowed", len(req.GetCsr()), maxCSR)
	}
	chain, renewAt, err := r.srv.cfg.Issuer.RenewNode(p.who.Cert, req.GetCsr())
	if err != nil {
		r.srv.cfg.Log.Warn("renewal refused", "node", p.who.Name, "err", err)
		return nil, statusOf(err)
	}
	return &controlv1.RenewResponse{Chain: chain, RenewAt: timestamppb.New(renewAt)}, nil
}

// Attend registers the tunnel it comes over, for as long as the call lasts.
func (r *registryService) Attend(call grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse]) error {
	p, err := caller(call.Context())
	if err != nil {
		return err
	}
	first, err := call.Recv()
	if err != nil {
		return err
	}
	reg := first.GetRegister()
	if err := r.mayRegister(p, reg); err != nil {
		r.srv.metrics.refused("registration")
		r.srv.cfg.Log.Warn("registration refused", "node", p.who.Name, "claimed", reg.GetNode(), "from", p.sess.RemoteAddr().String(), "err", err)
		return err
	}

	leave := make(chan *controlv1.GoingAway, 1)
	t := &tunnelTo{sess: p.sess, reg: reg, since: time.Now(), announce: func(g *controlv1.GoingAway) {
		select {
		case leave <- g:
		default:
		}
	}}
	if err := call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_Registered{Registered: &controlv1.Registered{
		RelayId: r.srv.id, Version: r.srv.cfg.Version, ProtocolVersion: stream.Version, WantPods: r.srv.cfg.Locate == Locator(r.srv.nodes),
	}}}); err != nil {
		return err
	}
	r.srv.nodes.add(t)
	defer r.srv.nodes.remove(t)
	r.srv.cfg.Log.Info("node registered", "node", reg.GetNode(), "instance", reg.GetInstance(), "version", reg.GetVersion(), "from", p.sess.RemoteAddr().String())
	if !r.srv.Ready() {
		t.announce(goingAway("relay is shutting down", r.srv.cfg.DrainTimeout))
	}
	return r.attend(call, t, leave)
}

// attend reads reports and passes goodbyes until either side ends the call.
func (r *registryService) attend(call grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse], t *tunnelTo, leave <-chan *controlv1.GoingAway) error {
	reports := make(chan error, 1)
	go func() { reports <- r.reports(call, t) }() // ends with the call, which ends when this returns
	for {
		select {
		case g := <-leave:
			if err := call.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_GoingAway{GoingAway: g}}); err != nil {
				return err
			}
		case err := <-reports:
			return err
		case <-t.sess.Done():
			return status.Error(codes.Unavailable, "tunnel lost")
		}
	}
}

func (r *registryService) reports(call grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse], t *tunnelTo) error {
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case m.GetPods() != nil:
			if err := r.srv.nodes.change(t, m.GetPods()); err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
		case m.GetGoingAway() != nil:
			r.srv.nodes.leaving(t)
			r.srv.cfg.Log.Info("node is going away", "node", t.reg.GetNode(), "reason", m.GetGoingAway().GetReason())
		}
	}
}

// mayRegister holds what an agent claims against what it proved.
func (r *registryService) mayRegister(p *peer, reg *controlv1.Register) error {
	switch {
	case reg == nil:
		return status.Error(codes.InvalidArgument, "the first message must be a registration")
	case p.who.Role != RoleNode:
		return status.Error(codes.PermissionDenied, "a join token buys a certificate and nothing else: connect again with it")
	case reg.GetNode() != p.who.Name:
		return status.Errorf(codes.PermissionDenied, "this credential is for node %q", p.who.Name)
	case reg.GetInstance() == "" || len(reg.GetInstance()) > maxInstance || len(reg.GetVersion()) > maxVersionText || len(reg.GetCapabilities()) > maxCapabilities:
		return status.Error(codes.InvalidArgument, "registration is out of bounds")
	}
	if !p.registered.CompareAndSwap(false, true) {
		return status.Error(codes.AlreadyExists, "this tunnel is registered already")
	}
	return nil
}

func goingAway(reason string, grace time.Duration) *controlv1.GoingAway {
	return &controlv1.GoingAway{Reason: reason, Grace: durationpb.New(grace)}
}

// statusOf gives an error of ours the closest code of gRPC and keeps its text.
func statusOf(err error) error {
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
	}
	return status.Error(code, err.Error())
}
