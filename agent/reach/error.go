package reach

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Error is an error whose peer hears Wire, while the log has the cause: paths and
// addresses of this node stay on it. Both must be set.
type Error struct {
	Wire  *stream.Error
	Cause error
}

// Error returns the cause.
func (e *Error) Error() string { return e.Cause.Error() }

// Unwrap returns both.
func (e *Error) Unwrap() []error { return []error{e.Wire, e.Cause} }

// explain gives an error on the way to a pod its code. This is the last place
// that sees what the kernel said. When the caller gave up there is nobody to
// explain it to.
func explain(ctx context.Context, err error, port uint16) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	code, text := stream.Internal, ""
	switch {
	case errors.As(err, new(*stream.Error)):
		return err
	case errors.Is(err, sandbox.ErrNotFound):
		code, text = stream.WrongNode, "the pod is not on this node any more"
	case errors.Is(err, sandbox.ErrBusy):
		code, text = stream.Overloaded, "the node is asked for too many pods that it does not know"
	case errors.Is(err, sandbox.ErrUnavailable):
		code, text = stream.Unreachable, "the node cannot find the pod: its container runtime does not answer"
	case errors.Is(err, netns.ErrGone):
		code, text = stream.NamespaceGone, "the pod's network is gone"
	case errors.Is(err, netns.ErrHost):
		code, text = stream.Policy, "the pod shares the network of the agent itself"
	case errors.Is(err, netns.ErrBusy):
		code, text = stream.Overloaded, "the node dials as many pods as it may at once"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		code, text = stream.Overloaded, "the node has no file descriptor left for another connection"
	case errors.Is(err, syscall.ECONNREFUSED):
		code, text = stream.NotListening, fmt.Sprintf("nothing listens on localhost port %d in the pod", port)
	case errors.Is(err, syscall.ECONNRESET): // whoever listened closed before it took the connection out of its queue
		code, text = stream.PodReset, fmt.Sprintf("port %d in the pod closed while it was dialled", port)
	case errors.Is(err, context.DeadlineExceeded):
		code, text = stream.Timeout, fmt.Sprintf("port %d in the pod did not accept in time", port)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ENETDOWN), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		code, text = stream.Unreachable, "the pod's localhost cannot be reached"
	}
	return &Error{Wire: &stream.Error{Code: code, Text: text}, Cause: err}
}
