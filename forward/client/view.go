package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// podPoll is how often AwaitPod looks for the pod.
const podPoll = 500 * time.Millisecond

// About asks the relay who it is.
func (c *Client) About(ctx context.Context) (*controlv1.AboutResponse, error) {
	return ask(ctx, c, "ask the relay about itself", controlv1.ViewClient.About, &controlv1.AboutRequest{})
}

// Nodes returns the nodes with at least one tunnel to the relay.
func (c *Client) Nodes(ctx context.Context) ([]*controlv1.NodeInfo, error) {
	r, err := ask(ctx, c, "list nodes", controlv1.ViewClient.ListNodes, &controlv1.ListNodesRequest{})
	return r.GetNodes(), err
}

// Pods returns the pods the relay knows in a namespace, in all if it is empty.
func (c *Client) Pods(ctx context.Context, namespace string) ([]*controlv1.Pod, error) {
	r, err := ask(ctx, c, "list pods", controlv1.ViewClient.ListPods, &controlv1.ListPodsRequest{Namespace: namespace})
	return r.GetPods(), err
}

// Streams returns the forwarded streams that are open now.
func (c *Client) Streams(ctx context.Context) ([]*controlv1.StreamInfo, error) {
	r, err := ask(ctx, c, "list streams", controlv1.ViewClient.ListStreams, &controlv1.ListStreamsRequest{})
	return r.GetStreams(), err
}

// Check asks how far a stream to t would get, without opening it. Port 0 asks
// about no port. Relays that are older than the question answer with an error
// for which [Unasked] is true.
func (c *Client) Check(ctx context.Context, t Target) (*controlv1.CheckResponse, error) {
	q := &controlv1.CheckRequest{Namespace: t.Namespace, Pod: t.Pod, Port: uint32(t.Port)}
	return ask(ctx, c, "check the way to "+t.String(), controlv1.ViewClient.Check, q)
}

// Unasked reports whether err says that the relay does not know the question.
func Unasked(err error) bool {
	var call *callError
	return errors.As(err, &call) && status.Code(call.err) == codes.Unimplemented
}

// Ready waits until there is a session, or ctx ends.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.current(ctx)
	return err
}

// maxView bounds what a relay may show at once, in bytes: a list of pods is long
// in a large cluster.
const maxView = 64 << 20

// viewCall is a method of the relay's view service.
type viewCall[Q, A any] func(v controlv1.ViewClient, ctx context.Context, question Q, opts ...grpc.CallOption) (A, error)

// ask makes one call over the current session, waiting for a session as open
// does. The call itself ends with ctx.
func ask[Q, A any](ctx context.Context, c *Client, what string, call viewCall[Q, A], question Q) (A, error) {
	var none A
	wait, cancel := context.WithTimeout(ctx, c.cfg.WaitTimeout)
	defer cancel()
	l, err := c.current(wait)
	if err != nil {
		return none, err
	}
	answer, err := call(controlv1.NewViewClient(l.control()), ctx, question, grpc.MaxCallRecvMsgSize(maxView))
	if err != nil {
		return none, &callError{what, err}
	}
	return answer, nil
}

// callError says what a call was for and what the relay said, without the
// dressing that gRPC puts on its errors.
type callError struct {
	what string
	err  error
}

func (e *callError) Error() string {
	text := e.err.Error()
	if s, ok := status.FromError(e.err); ok {
		text = s.Message()
	}
	return e.what + ": " + text
}

func (e *callError) Unwrap() error { return e.err }

// FindPod asks the relay for one pod, and other relays if this one knows no more
// than its own agents. A pod that no node has is a *stream.Error with PodNotFound.
func (c *Client) FindPod(ctx context.Context, namespace, name string) (*controlv1.Pod, error) {
	pods, err := c.Pods(ctx, namespace)
	if err != nil {
		return nil, err
	}
	p := podIn(pods, namespace, name)
	if p == nil {
		p = c.podElsewhere(ctx, namespace, name)
	}
	if p != nil {
		return p, nil
	}
	return nil, &stream.Error{
		Code: stream.PodNotFound,
		Text: fmt.Sprintf("pod %q not found in namespace %q", name, namespace),
	}
}

func podIn(pods []*controlv1.Pod, namespace, name string) *controlv1.Pod {
	for _, p := range pods {
		if p.GetNamespace() == namespace && p.GetName() == name {
			return p
		}
	}
	return nil
}

// AwaitPod waits until there is a session and the relay knows the pod, or ctx
// ends: then the last answer is returned. waiting, if not nil, is called once
// when the first look found no pod.
//
// An answer that waiting cannot cure, such as a caller who may not look, is
// returned at once.
func (c *Client) AwaitPod(ctx context.Context, namespace, name string, waiting func()) (*controlv1.Pod, error) {
	told := false
	var last error
	for {
		pod, err := c.FindPod(ctx, namespace, name)
		switch {
		case err == nil || c.cannotCure(err):
			return pod, err
		case ctx.Err() == nil || last == nil: // else it only says that the time is up
			last = err
		}
		if !told && waiting != nil && stream.CodeOf(err) == stream.PodNotFound {
			told = true
			waiting()
		}
		if !connect.Sleep(ctx, podPoll) {
			return nil, last
		}
	}
}

func (c *Client) cannotCure(err error) bool {
	if c.over() {
		return true
	}
	var call *callError
	if !errors.As(err, &call) {
		return false
	}
	switch status.Code(call.err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented, codes.InvalidArgument:
		return true
	}
	return false
}

// over reports whether no session will ever be made again.
func (c *Client) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended != nil || (c.once && (c.cur == nil || c.cur.dead()))
}
