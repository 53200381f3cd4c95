package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// podPoll is how often AwaitPod looks for the pod.
const podPoll = 500 * time.Millisecond

// View returns the relay's view service over the current session, waiting for
// one until ctx ends, WaitTimeout at most. It is good as long as that session.
func (c *Client) View(ctx context.Context) (controlv1.ViewClient, error) {
	wait, cancel := context.WithTimeout(ctx, c.cfg.WaitTimeout)
	defer cancel()
	l, err := c.current(wait)
	if err != nil {
		return nil, err
	}
	return controlv1.NewViewClient(l.control()), nil
}

// FindPod asks the relay for one pod. A pod that no node has is a
// *stream.Error with PodNotFound.
func (c *Client) FindPod(ctx context.Context, namespace, name string) (*controlv1.Pod, error) {
	view, err := c.View(ctx)
	if err != nil {
		return nil, err
	}
	list, err := view.ListPods(ctx, &controlv1.ListPodsRequest{Namespace: namespace})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for _, p := range list.GetPods() {
		if p.GetNamespace() == namespace && p.GetName() == name {
			return p, nil
		}
	}
	return nil, &stream.Error{
		Code: stream.PodNotFound,
		Text: fmt.Sprintf("pod %q not found in namespace %q", name, namespace),
	}
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
		if !sleep(ctx, podPoll) {
			return nil, last
		}
	}
}

func (c *Client) cannotCure(err error) bool {
	if c.over() {
		return true
	}
	switch status.Code(err) {
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
