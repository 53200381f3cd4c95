package relay

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// maxListed bounds the streams of one answer; at 500 bytes each they are 10 MB.
	maxListed = 20000
	// wholeID is how many digits the id of a stream has.
	wholeID = 2 * len(stream.ID{})
)

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

// StopStream ends a stream. Who may not stop those of others is told of none. Clients
// choose the ids of their streams, so one id may be that of several: whole, it stops
// them all, or nobody could be stopped who gives all his streams the same one.
func (v *viewService) StopStream(ctx context.Context, req *controlv1.StopStreamRequest) (*controlv1.StopStreamResponse, error) {
	id := req.GetId()
	if len(id) < 8 || len(id) > wholeID || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, status.Error(codes.InvalidArgument, "the id of a stream is 32 hexadecimal digits, of which the first 8 may do")
	}
	p, found, err := v.stoppable(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, status.Errorf(codes.NotFound, "no stream that user %s may stop has the id %s at this relay", p.who().Name, id)
	case len(found) > 1 && len(id) < wholeID:
		return nil, status.Errorf(codes.FailedPrecondition, "%d streams have an id that begins with %s: give all 32 digits", len(found), id)
	}
	answer := &controlv1.StopStreamResponse{Stream: found[0].info(ownerOf(p.who()))}
	for _, f := range found {
		f.stopper.stop(p.who().Name)
		v.srv.cfg.Log.Info("stream is stopped", "id", f.id.String(), "user", f.user, "by", p.who().Name)
	}
	return answer, nil
}

// stoppable returns the caller, and of the streams whose id begins so those that he may
// stop.
func (v *viewService) stoppable(ctx context.Context, id string) (*peer, []*flow, error) {
	p, err := caller(ctx)
	if err != nil {
		return nil, nil, err
	}
	others := func(f *flow) bool { return f.owner != ownerOf(p.who()) }
	found := slices.DeleteFunc(v.srv.flows.list(), func(f *flow) bool { return !strings.HasPrefix(f.id.String(), id) })
	if !slices.ContainsFunc(found, others) {
		return p, found, nil
	}
	_, may, err := v.oversees(ctx, StopStreams)
	if err == nil && !may {
		found = slices.DeleteFunc(found, others)
	}
	return p, found, err
}
