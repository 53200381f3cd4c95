package agent

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// nodeService answers the questions of relays.
type nodeService struct {
	controlv1.UnimplementedNodeServer
	agent *Agent
}

// ListPods returns every pod the agent can reach.
func (n *nodeService) ListPods(_ context.Context, req *controlv1.ListPodsRequest) (*controlv1.ListPodsResponse, error) {
	out := &controlv1.ListPodsResponse{}
	for _, p := range n.agent.cfg.Pods.List() {
		if req.GetNamespace() == "" || req.GetNamespace() == p.Namespace {
			out.Pods = append(out.Pods, protoPod(p))
		}
	}
	return out, nil
}

// Describe says what the agent knows of a pod and what its policy says.
func (n *nodeService) Describe(ctx context.Context, req *controlv1.DescribeRequest) (*controlv1.DescribeResponse, error) {
	if req.GetPort() > 65535 {
		return nil, status.Errorf(codes.InvalidArgument, "port %d is not a number from 1 to 65535", req.GetPort())
	}
	pod, denied, err := n.agent.cfg.Pods.Find(ctx, req.GetUid(), uint16(req.GetPort()))
	if errors.Is(err, &stream.Error{Code: stream.WrongNode}) {
		return nil, status.Errorf(codes.NotFound, "no pod with uid %q on this node", req.GetUid())
	}
	if err != nil {
		// Only the coded part: paths of this node are not the relay's business.
		return nil, status.Error(codes.Unavailable, stream.TextOf(err))
	}
	out := &controlv1.DescribeResponse{Pod: protoPod(pod), Allowed: denied == nil}
	if denied != nil {
		out.Reason = denied.Error()
	}
	return out, nil
}
