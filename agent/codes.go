package agent

import (
	"errors"
	"fmt"
	"io"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// leaving is what everybody hears when the agent ends.
func leaving() *stream.Error {
	return &stream.Error{Code: stream.GoingAway, Text: "agent is shutting down"}
}

// crowds is what the streams of a user hear who lets too much lie unread.
func crowds() *stream.Error {
	return &stream.Error{Code: stream.Overloaded, Text: "the agent holds as many unread bytes as it may, and those of this user are the most: read faster, or open fewer connections"}
}

// lost is why the streams of a tunnel end that is of no use any more.
func lost(cause error) error {
	if errors.As(cause, new(*stream.Error)) {
		return cause
	}
	return &reach.Error{
		Wire:  &stream.Error{Code: stream.Unreachable, Text: "the agent lost its tunnel"},
		Cause: &unregistered{cause},
	}
}

// unregistered makes the end of a registration an end of the tunnel.
type unregistered struct{ cause error }

func (e *unregistered) Error() string { return e.cause.Error() }

func (e *unregistered) Unwrap() error { return e.cause }

func (e *unregistered) Is(target error) bool { return target == tunnel.ErrLost }

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
	case errors.As(err, new(*reach.Error)): // of the pod, or of this side
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
