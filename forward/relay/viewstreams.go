package relay

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// maxListed bounds the streams of one answer; at 500 bytes each they are 10 MB.
const maxListed = 20000

// ListStreams returns the streams that run now, oldest first; to who is no overseer,
// his own.
func (v *viewService) ListStreams(ctx context.Context, req *controlv1.ListStreamsRequest) (*controlv1.ListStreamsResponse, error) {
	p, all, err := v.oversees(ctx, SeeStreams)
	if err != nil {
		return nil, err
	}
	me := ownerOf(p.who())
	flows := slices.DeleteFunc(v.srv.flows.list(), func(f *flow) bool {
		return !all && f.owner != me ||
			req.GetNamespace() != "" && f.target.Namespace != req.GetNamespace() ||
			req.GetPod() != "" && f.target.Pod != req.GetPod() ||
			req.GetUser() != "" && f.user != req.GetUser()
	})
	slices.SortFunc(flows, func(a, b *flow) int {
		return cmp.Or(a.started.Compare(b.started), slices.Compare(a.id[:], b.id[:]))
	})
	limit := maxListed
	if n := req.GetLimit(); n > 0 && n < maxListed {
		limit = int(n)
	}
	answer := &controlv1.ListStreamsResponse{RelayId: v.srv.id, All: all}
	if more := len(flows) - limit; more > 0 {
		answer.LeftOut, flows = uint32(more), flows[:limit]
	}
	answer.Streams = make([]*controlv1.StreamInfo, 0, len(flows))
	for _, f := range flows {
		answer.Streams = append(answer.Streams, f.info(me))
	}
	return answer, nil
}

// info is what a client is shown of a stream.
func (f *flow) info(me string) *controlv1.StreamInfo {
	up, down := f.bytes()
	return &controlv1.StreamInfo{
		Id: f.id.String(), User: f.user, ClientAddr: f.from, Node: f.place().Node,
		Namespace: f.target.Namespace, Pod: f.target.Pod, Port: uint32(f.target.Port),
		Started: timestamppb.New(f.started), BytesUp: uint64(up), BytesDown: uint64(down),
		Door: f.door, TraceId: f.trace.TraceID(), Own: f.owner == me,
	}
}

func ownerOf(who Identity) string { return cmp.Or(who.Exact, who.Name) }

// StopStream ends a stream. Who may not stop those of others is told of none.
func (v *viewService) StopStream(ctx context.Context, req *controlv1.StopStreamRequest) (*controlv1.StopStreamResponse, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if !regexp.MustCompile("^[0-9a-f]{8,32}$").MatchString(req.GetId()) {
		return nil, status.Error(codes.InvalidArgument, "the id of a stream is 32 hexadecimal digits, of which the first 8 may do")
	}
	me := ownerOf(p.who())
	found := slices.DeleteFunc(v.srv.flows.list(), func(f *flow) bool { return !strings.HasPrefix(f.id.String(), req.GetId()) })
	if slices.ContainsFunc(found, func(f *flow) bool { return f.owner != me }) {
		_, may, err := v.oversees(ctx, StopStreams)
		if err != nil {
			return nil, err
		}
		if !may {
			found = slices.DeleteFunc(found, func(f *flow) bool { return f.owner != me })
		}
	}
	switch len(found) {
	case 0:
		return nil, status.Errorf(codes.NotFound, "no stream that user %s may stop has the id %s at this relay", p.who().Name, req.GetId())
	case 1:
	default:
		return nil, status.Errorf(codes.FailedPrecondition, "%d streams have an id that begins with %s: give more of it", len(found), req.GetId())
	}
	f := found[0]
	answer := &controlv1.StopStreamResponse{Stream: f.info(me)}
	f.stopper.stop(p.who().Name)
	v.srv.cfg.Log.Info("stream is stopped", "id", f.id.String(), "user", f.user, "by", p.who().Name)
	return answer, nil
}
