package relay

import (
	"cmp"
	"context"
	"slices"

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
	return &controlv1.AboutResponse{
		RelayId: v.srv.id, Version: v.srv.cfg.Version, ProtocolVersion: stream.Version,
		Started: timestamppb.New(v.srv.started), User: p.who().Name,
	}, nil
}

// ListNodes returns the nodes with a tunnel.
func (v *viewService) ListNodes(ctx context.Context, _ *controlv1.ListNodesRequest) (*controlv1.ListNodesResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
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

// ListPods returns what the agents reported.
func (v *viewService) ListPods(ctx context.Context, req *controlv1.ListPodsRequest) (*controlv1.ListPodsResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	return &controlv1.ListPodsResponse{Pods: v.srv.nodes.listPods(req.GetNamespace())}, nil
}

// ListStreams returns the streams that run now, oldest first.
func (v *viewService) ListStreams(ctx context.Context, _ *controlv1.ListStreamsRequest) (*controlv1.ListStreamsResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	flows := v.srv.flows.list()
	slices.SortFunc(flows, func(a, b *flow) int { return a.started.Compare(b.started) })
	out := make([]*controlv1.StreamInfo, 0, len(flows))
	for _, f := range flows {
		up, down := f.bytes()
		out = append(out, &controlv1.StreamInfo{
			Id: f.id.String(), User: f.user, ClientAddr: f.from, Node: f.place().Node,
			Namespace: f.target.Namespace, Pod: f.target.Pod, Port: uint32(f.target.Port),
			Started: timestamppb.New(f.started), BytesUp: uint64(up), BytesDown: uint64(down),
		})
	}
	return &controlv1.ListStreamsResponse{Streams: out}, nil
}
