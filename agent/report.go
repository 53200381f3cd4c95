package agent

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// podBatch is the most pods in one message, so that it stays far below the
// message limit whatever the names.
const podBatch = 500

// reported is what a relay was told about the pods.
type reported struct {
	call interface {
		Send(*controlv1.AttendRequest) error
	}
	known map[string]sandbox.Pod // by UID; nil before the first report, which is full
}

// update sends what has changed since the last time.
func (r *reported) update(pods []sandbox.Pod) error {
	now := make(map[string]sandbox.Pod, len(pods))
	for _, p := range pods {
		now[p.UID] = p
	}
	known := r.known
	r.known = now
	c := &controlv1.PodChanges{Full: known == nil}
	for uid := range known {
		if _, still := now[uid]; still {
			continue
		}
		c.Removed = append(c.Removed, uid)
		if err := r.flushAt(podBatch, &c); err != nil {
			return err
		}
	}
	for uid, p := range now {
		if old, was := known[uid]; was && old == p {
			continue
		}
		c.Upsert = append(c.Upsert, protoPod(p))
		if err := r.flushAt(podBatch, &c); err != nil {
			return err
		}
	}
	if c.GetFull() {
		return r.flushAt(0, &c)
	}
	return r.flushAt(1, &c)
}

// flushAt sends the changes once there are n of them, and starts anew.
func (r *reported) flushAt(n int, c **controlv1.PodChanges) error {
	if len((*c).GetUpsert())+len((*c).GetRemoved()) < n {
		return nil
	}
	err := r.call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Pods{Pods: *c}})
	*c = &controlv1.PodChanges{}
	return err
}

func protoPod(p sandbox.Pod) *controlv1.Pod {
	return &controlv1.Pod{
		Namespace: p.Namespace, Name: p.Name, Uid: p.UID,
		HostNetwork: p.HostNetwork, Created: timestamppb.New(p.Created),
	}
}
