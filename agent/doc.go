// Package agent is the node end of a forward. It keeps a tunnel to every relay
// it is told of, and to every address of a relay's name, takes streams from them, refuses what its own policy refuses,
// and dials the localhost of the pod that a stream names.
//
// The agent dials out and listens on nothing. A relay can ask it for a pod by
// UID and for a port, never for an address; which pods there are the agent
// finds out itself.
package agent

import (
	"context"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
)

// Pods knows the pods of this node. The sources of package sandbox do.
type Pods interface {
	// Run keeps the knowledge fresh until ctx ends.
	Run(ctx context.Context) error
	// Lookup finds a pod by UID; sandbox.ErrNotFound if there is none.
	Lookup(ctx context.Context, uid string) (sandbox.Pod, error)
	// List returns every pod.
	List() []sandbox.Pod
	// Changed gets a value when List may have changed.
	Changed() <-chan struct{}
	// Ready returns nil if List is whole and up to date, or else why it may not
	// be.
	Ready() error
}

// PodDialer connects to a port on a pod's localhost. The caller owns the
// connection.
type PodDialer interface {
	DialPod(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Conn, error)
}
