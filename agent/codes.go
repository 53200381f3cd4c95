package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// coded is an error whose peer hears wire, while the log has the cause: paths
// and addresses of this node stay on it.
type coded struct {
	wire  *stream.Error
	cause error
}

func (e *coded) Error() string { return e.cause.Error() }

func (e *coded) Unwrap() []error { return []error{e.wire, e.cause} }

// leaving is what everybody hears when the agent ends.
func leaving() *stream.Error {
	return &stream.Error{Code: stream.GoingAway, Text: "agent is shutting down"}
}

// lost is why the streams of a tunnel end that is of no use any more.
func lost(cause error) error {
	if errors.As(cause, new(*stream.Error)) {
		return cause
	}
	return &coded{
		wire:  &stream.Error{Code: stream.Unreachable, Text: "the agent lost its tunnel"},
		cause: &unregistered{cause},
	}
}

// unregistered makes the end of a registration an end of the tunnel.
type unregistered struct{ cause error }

func (e *unregistered) Error() string { return e.cause.Error() }

func (e *unregistered) Unwrap() error { return e.cause }

func (e *unregistered) Is(target error) bool { return target == tunnel.ErrLost }

// explain gives an error on the way to a pod its code. This is the last place
// that sees what the kernel said.
func explain(err error, open *stream.Open) error {
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
	case errors.Is(err, syscall.ECONNREFUSED):
		code, text = stream.NotListening, fmt.Sprintf("nothing listens on localhost port %d in the pod", open.Port)
	case errors.Is(err, context.DeadlineExceeded):
		code, text = stream.Timeout, fmt.Sprintf("port %d in the pod did not accept in time", open.Port)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		code, text = stream.Unreachable, "the pod's localhost cannot be reached"
	}
	return &coded{wire: &stream.Error{Code: code, Text: text}, cause: err}
}

// outcome names how a stream ended, for the log and the metrics, and says why.
// It is the name of a code, or "tunnel-lost": nobody is left to be told that, so
// it has no code.
func outcome(err error) (name, reason string) {
	if err == nil {
		return stream.OK.String(), ""
	}
	code := stream.CodeOf(err)
	reason = err.Error()
	switch {
	case errors.Is(err, tunnel.ErrLost):
		return "tunnel-lost", reason
	case errors.As(err, new(*coded)): // of the pod, or of this side
	case errors.As(err, new(*stream.Error)) && errors.Is(err, forward.ErrReset):
		reason = "client: " + reason
	case errors.Is(err, forward.ErrReset), errors.Is(err, io.ErrUnexpectedEOF):
		code, reason = stream.Canceled, "client broke off: "+reason
	}
	if !code.Known() {
		// A peer may send any number, and each would be a series of its own.
		return "unknown", fmt.Sprintf("%s, %s", code, reason)
	}
	return code.String(), reason
}
