package client

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/culvert-k8s/culvert/forward"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

var errCut = errors.New("cable cut")

// fakeSession is a session without a network.
type fakeSession struct {
	done chan struct{}
	end  sync.Once
	err  error

	onOpen func(*stream.Open) (conn, error)
	pods   func() ([]*controlv1.Pod, error)
	about  *controlv1.AboutResponse

	streams []string // ids; "deny" refuses to stop any
}

func newFakeSession() *fakeSession { return &fakeSession{done: make(chan struct{})} }

func (s *fakeSession) cut(err error) { s.end.Do(func() { s.err = err; close(s.done) }) }

func (s *fakeSession) open(_ context.Context, o *stream.Open, early []byte) (conn, error) {
	select {
	case <-s.done:
		return nil, s.err
	default:
	}
	if s.onOpen == nil {
		return &fakeConn{}, nil
	}
	c, err := s.onOpen(o)
	if err == nil && len(early) > 0 {
		_, _ = c.Write(early) // what comes of it is for the reader to say
	}
	return c, err
}

func (s *fakeSession) control() grpc.ClientConnInterface { return fakeControl{s} }
func (s *fakeSession) NumStreams() int                   { return 0 }
func (s *fakeSession) Done() <-chan struct{}             { return s.done }
func (s *fakeSession) Err() error                        { return s.err }
func (s *fakeSession) Close() error                      { s.cut(errors.New("closed")); return nil }

// fakeControl answers ListPods and About.
type fakeControl struct{ s *fakeSession }

func (f fakeControl) Invoke(_ context.Context, _ string, question, reply any, _ ...grpc.CallOption) error {
	switch out := reply.(type) {
	case *controlv1.AboutResponse:
		if f.s.about == nil {
			return errors.New("a relay that does not say who it is")
		}
		proto.Merge(out, f.s.about)
	case *controlv1.ListStreamsResponse:
		out.RelayId = f.s.about.GetRelayId()
		for _, id := range f.s.streams {
			out.Streams = append(out.GetStreams(), &controlv1.StreamInfo{Id: id})
		}
	case *controlv1.StopStreamResponse:
		id := question.(*controlv1.StopStreamRequest).GetId() //nolint:forcetypeassert // what goes with it
		switch {
		case slices.Contains(f.s.streams, "deny"):
			return status.Error(codes.PermissionDenied, "you may not")
		case !slices.Contains(f.s.streams, id):
			return status.Error(codes.NotFound, "no such stream")
		}
		out.Stream = &controlv1.StreamInfo{Id: id}
	case *controlv1.ListPodsResponse:
		pods, err := f.s.pods()
		if err != nil {
			return err
		}
		out.Pods = pods
	}
	return nil
}

func (f fakeControl) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams here")
}

// fakeConn is a stream that gives one answer.
type fakeConn struct {
	forward.Conn
	reply error
	reset error
}

func (c *fakeConn) WaitReply(context.Context) error { return c.reply }
func (c *fakeConn) Read([]byte) (int, error)        { return 0, c.reply }
func (c *fakeConn) Reset(cause error) error         { c.reset = cause; return nil }

func (c *fakeConn) ReadLazy(func() []byte, func()) (int, error) { return 0, c.reply }

func (c *fakeConn) ReadPush(func() []byte, func(), func([]byte) int) (int, error) { return 0, c.reply }
func (c *fakeConn) WriteFrame(b []byte) (int, error)                              { return len(b) - forward.Headroom, nil }
