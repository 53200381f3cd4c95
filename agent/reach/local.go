package reach

import (
	"context"
	"fmt"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Local are the pods that this process itself can enter. Source and Dialer must be
// set, and nothing may be changed after the first use.
type Local struct {
	// Source knows the pods.
	Source Source
	// Dialer enters them.
	Dialer Dialer
	// Policy refuses streams. The zero value lets everything but host-network pods
	// pass.
	Policy Policy
}

var _ Pods = (*Local)(nil)

// Run runs the source.
func (l *Local) Run(ctx context.Context) error { return l.Source.Run(ctx) }

// List lists what the source does.
func (l *Local) List() []sandbox.Pod { return l.Source.List() }

// Changed is that of the source.
func (l *Local) Changed() <-chan struct{} { return l.Source.Changed() }

// Ready asks the source.
func (l *Local) Ready() error { return l.Source.Ready() }

// HostNetwork asks the policy.
func (l *Local) HostNetwork() bool { return l.Policy.AllowHostNetwork }

// Find asks the source and the policy.
func (l *Local) Find(ctx context.Context, uid string, port uint16) (pod sandbox.Pod, denied, err error) {
	if pod, err = l.find(ctx, uid, port); err == nil && port != 0 {
		denied = l.Policy.Check(pod, port)
	}
	return pod, denied, err
}

// Connect opens a socket and makes a connection of it.
func (l *Local) Connect(ctx context.Context, uid string, port uint16) (sandbox.Pod, forward.Conn, error) {
	pod, s, err := l.Open(ctx, uid, port)
	if err != nil {
		return pod, nil, err
	}
	return pod, forward.TCP(s), nil
}

// Open is Connect for who wants the bare socket, which the caller owns.
func (l *Local) Open(ctx context.Context, uid string, port uint16) (sandbox.Pod, forward.Socket, error) {
	if port == 0 {
		return sandbox.Pod{}, nil, &stream.Error{Code: stream.Malformed, Text: "there is no port 0"}
	}
	pod, err := l.find(ctx, uid, port)
	if err != nil {
		return pod, nil, err
	}
	if err := l.Policy.Check(pod, port); err != nil {
		return pod, nil, err
	}
	s, err := l.Dialer.DialPod(ctx, pod, port)
	if err != nil {
		return pod, nil, explain(ctx, fmt.Errorf("dial pod: %w", err), port)
	}
	return pod, s, nil
}

func (l *Local) find(ctx context.Context, uid string, port uint16) (sandbox.Pod, error) {
	pod, err := l.Source.Lookup(ctx, uid)
	if err != nil {
		return sandbox.Pod{}, explain(ctx, fmt.Errorf("find pod: %w", err), port)
	}
	return pod, nil
}
