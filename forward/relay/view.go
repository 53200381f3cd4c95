package relay

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// viewService shows clients what the relay sees.
type viewService struct {
	controlv1.UnimplementedViewServer
	srv *Server
}

// About names the relay and whom it takes the caller for.
func (v *viewService) About(ctx context.Context, _ *controlv1.AboutRequest) (*controlv1.AboutResponse, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	return v.about(p), nil
}

func (v *viewService) about(p *peer) *controlv1.AboutResponse {
	return &controlv1.AboutResponse{
		RelayId: v.srv.id, Version: v.srv.cfg.Version, ProtocolVersion: stream.Version,
		Started: timestamppb.New(v.srv.started), User: p.who().Name,
		Relays: uint32(v.srv.peers.count()), ByReport: v.srv.byReport(),
	}
}

// Watch tells what About tells, and that the relay goes away.
func (v *viewService) Watch(_ *controlv1.WatchRequest, call grpc.ServerStreamingServer[controlv1.WatchResponse]) error {
	p, err := caller(call.Context())
	if err != nil {
		return err
	}
	if err := call.Send(&controlv1.WatchResponse{Kind: &controlv1.WatchResponse_About{About: v.about(p)}}); err != nil {
		return err
	}
	told := v.srv.audience.enter()
	defer told()
	select {
	case <-call.Context().Done():
		return nil
	case <-v.srv.draining:
	}
	bye := &controlv1.WatchResponse{Kind: &controlv1.WatchResponse_GoingAway{GoingAway: v.srv.farewell()}}
	if err := call.Send(bye); err != nil {
		return err
	}
	told()
	<-call.Context().Done()
	return nil
}

// oversees returns the caller and whether he may do something of what others do.
func (v *viewService) oversees(ctx context.Context, what Oversight) (p *peer, may bool, err error) {
	if p, err = caller(ctx); err != nil {
		return nil, false, err
	}
	judge := v.srv.cfg.Oversee
	if judge == nil {
		// Who has the relay's own token may reach all there is.
		return p, what != StopStreams || p.who().Cert == nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, v.srv.cfg.OpenTimeout)
	defer cancel()
	if may, err = judge.Oversees(ctx, p.who(), what); err != nil {
		v.srv.noise.warn(ctx, "cannot tell what a user may see", "name", p.who().Name, "err", err)
		return nil, false, statusOf(err)
	}
	return p, may, nil
}

// ListNodes returns the nodes with a tunnel; to who is no overseer, none.
func (v *viewService) ListNodes(ctx context.Context, _ *controlv1.ListNodesRequest) (*controlv1.ListNodesResponse, error) {
	_, all, err := v.oversees(ctx, SeeNodes)
	if err != nil || !all {
		return &controlv1.ListNodesResponse{}, err
	}
	out := v.srv.nodes.list()
	running := make(map[string]uint32)
	for _, f := range v.srv.flows.list() {
		running[f.place().Node]++
	}
	for _, info := range out {
		info.Streams = running[info.GetName()]
	}
	slices.SortFunc(out, func(a, b *controlv1.NodeInfo) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return &controlv1.ListNodesResponse{Nodes: out}, nil
}

// ListPods returns what the agents reported, if pods are found by that. Where
// somebody else knows the pods, that one decides who sees them: the relay shows what
// it happens to know to overseers only.
func (v *viewService) ListPods(ctx context.Context, req *controlv1.ListPodsRequest) (*controlv1.ListPodsResponse, error) {
	if !v.srv.byReport() {
		if _, all, err := v.oversees(ctx, SeeNodes); err != nil || !all {
			return &controlv1.ListPodsResponse{}, err
		}
	} else if _, err := caller(ctx); err != nil {
		return nil, err
	}
	return &controlv1.ListPodsResponse{Pods: v.srv.nodes.listPods(req.GetNamespace())}, nil
}
