package reach

import (
	"context"
	"fmt"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/netns"
)

// NetnsDialer is the Dialer of a real node: it enters the pod's network
// namespace. The zero value works; it must not be copied once it is in use.
type NetnsDialer struct {
	// Dialer bounds the dials.
	Dialer netns.Dialer

	namespaces handles
}

var _ Dialer = (*NetnsDialer)(nil)

// DialPod connects to a port on the localhost of the pod.
func (d *NetnsDialer) DialPod(ctx context.Context, pod sandbox.Pod, port uint16) (forward.Socket, error) {
	h, done, err := d.namespaces.open(pod)
	if err != nil {
		return nil, fmt.Errorf("open network namespace of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	defer done()
	c, err := d.Dialer.Dial(ctx, h, port)
	if err != nil {
		return nil, fmt.Errorf("dial pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return c, nil
}
