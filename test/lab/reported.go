//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// ReportedPod is a pod as the relay knows it.
type ReportedPod struct {
	Namespace, Name, UID, Node string
}

// ReportedPods asks the relay, by culvert, for the pods of all nodes.
func (c *Cluster) ReportedPods(ctx context.Context) ([]ReportedPod, error) {
	out, err := c.RunCulvert(ctx, "get", "pods", "--all-namespaces", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []ReportedPod }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read culvert's list of pods: %w", err)
	}
	return list.Items, nil
}

// AwaitPod waits until the relay knows the pod of that name on that node by
// another UID than old, which may be empty, and returns the UID. A bare pod made
// again under its old name is another pod, and agents take a moment to see it.
func (c *Cluster) AwaitPod(ctx context.Context, node, name, old string) (uid string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		uid, err = c.reportedUID(ctx, node, name)
		if err == nil && uid != "" && uid != old {
			return uid, nil
		}
		if paused := pause(ctx, 50*time.Millisecond); paused != nil {
			return "", fmt.Errorf("wait until the relay knows pod %s on %s: %w, last answer %q, %v", name, node, paused, uid, err)
		}
	}
}

// reportedUID returns the UID of a pod, empty if the relay does not know it.
func (c *Cluster) reportedUID(ctx context.Context, node, name string) (string, error) {
	pods, err := c.ReportedPods(ctx)
	if err != nil {
		return "", err
	}
	for _, pod := range pods {
		if pod.Node == node && pod.Name == name {
			return pod.UID, nil
		}
	}
	return "", nil
}
