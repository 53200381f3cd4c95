// Package reach is the way from a pod's UID and a port to a connected socket, with
// the node's own policy in between. It is all that the privileged part of an agent
// does: Local does it in this process, and package broker lets another process ask
// a Local that it does not share its powers with.
package reach

import (
	"context"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
)

// Pods are the pods of one node and the way to their ports. Errors of Find and
// Connect have a *stream.Error in their chain with what a peer may be told, unless
// ctx was cancelled. It is safe for use by many goroutines.
type Pods interface {
	// Run keeps the knowledge fresh until ctx ends. Call it once.
	Run(ctx context.Context) error
	// List returns every pod that can be reached, as far as is known.
	List() []sandbox.Pod
	// Changed gets a value when List may have changed. One goroutine may wait on it.
	Changed() <-chan struct{}
	// Ready returns nil if List is whole and up to date, or else why it may not be.
	Ready() error
	// Find finds a pod by UID; the code is stream.WrongNode if it is not here, and
	// that is only said after the runtime itself was asked. denied is why the policy
	// refuses streams to the port, nil if it does not; port 0 is not asked about.
	Find(ctx context.Context, uid string, port uint16) (pod sandbox.Pod, denied, err error)
	// Connect connects to a port on the pod's localhost, 1 to 65535, if the policy
	// allows. The caller owns the connection. pod is known with some errors too;
	// otherwise its UID is empty.
	Connect(ctx context.Context, uid string, port uint16) (pod sandbox.Pod, conn forward.Conn, err error)
	// HostNetwork tells whether the policy lets streams into pods on the node's own
	// network.
	HostNetwork() bool
}

// Source knows the pods of this node. The sources of package sandbox do.
type Source interface {
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

// Dialer connects to a port on a pod's localhost. The caller owns the socket.
type Dialer interface {
	DialPod(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error)
}
