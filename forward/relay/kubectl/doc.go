// Package kubectl is the server's side of what kubectl and other clients of the
// Kubernetes API speak on pods/NAME/portforward: SPDY/3.1 on a hijacked
// connection or inside a WebSocket, and the WebSocket protocols
// v4.channel.k8s.io and v4.base64.channel.k8s.io.
//
// The package knows the wire and nothing else. Who the caller is, whether he may
// and where the pod is, is behind [Session].
//
// One failing connection ends only itself: text on an error stream makes kubectl
// give up the whole forward, so there is none unless the session is over.
package kubectl

import (
	"context"

	"github.com/culvert-k8s/culvert/forward"
)

// Doors: what a Session is told about the way a connection came in. There are no
// others, so they may be labels of metrics.
const (
	DoorSPDY      = "kubectl-spdy"      // SPDY/3.1 after POST
	DoorWebSocket = "kubectl-websocket" // SPDY/3.1 inside a WebSocket
	DoorV4        = "kubectl-v4"        // v4.channel.k8s.io and its kin
)

// Session is one port-forward request that has been let in, as seen by a Handler.
type Session interface {
	// Dial opens a connection to a port of the pod, on behalf of a client that
	// came in through door. It may take as long as ctx lets it. A refusal is a
	// *stream.Error. It is called by many goroutines at a time.
	Dial(ctx context.Context, port uint16, door string) (Connection, error)

	// Over is closed when the whole session must end: the pod is gone for good,
	// access was revoked, the relay goes away. A nil channel never ends it.
	Over() <-chan struct{}

	// Why is asked once Over is closed. Its text is shown to the user.
	Why() error
}

// Connection is a connection to a pod that the pod has accepted. Whoever dialled
// it ends it, with Join or with Close.
type Connection interface {
	// Join carries bytes between client and the pod until both directions have
	// ended or ctx has, and takes client over.
	Join(ctx context.Context, client forward.Conn) error

	// Close gives up a connection that was not joined.
	Close() error
}

// Namer is an optional part of a Session: it says whose port is forwarded, for the
// texts that a strict Handler copies from kubelet.
type Namer interface {
	Pod() (name, uid string)
}
