package agent

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// podBatch is the most pods in one message, so that it stays far below the
// message limit whatever the names.
const podBatch = 500

// uplink is one tunnel to a relay.
type uplink struct {
	agent    *Agent
	relay    string
	sess     *tunnel.Session
	control  *grpc.ClientConn
	replaced chan struct{} // closed when the relay said that it goes away
	once     sync.Once
}

// serve registers the tunnel and takes streams from it until the session or
// hard ends. When ctx ends it says goodbye and goes on.
func (u *uplink) serve(ctx, hard context.Context) {
	hard, cancel := context.WithCancelCause(hard)
	var attending sync.WaitGroup
	attending.Go(func() {
		// Without its registration a tunnel serves nobody.
		cancel(u.attend(ctx, hard))
	})
	err := u.sess.Serve(hard, func(st *tunnel.Stream) { u.stream(hard, st) })
	cancel(err)
	attending.Wait()
	_ = u.control.Close()
	_ = u.sess.CloseWithError(err)
	if ctx.Err() == nil {
		u.agent.cfg.Log.Warn("tunnel ended", "relay", u.relay, "err", err)
	}
}

// attend registers and reports until the call ends.
func (u *uplink) attend(ctx, hard context.Context) error {
	call, err := controlv1.NewRegistryClient(u.control).Attend(hard)
	if err != nil {
		return fmt.Errorf("register with %s: %w", u.relay, err)
	}
	a := u.agent
	if err := call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Register{Register: a.registration()}}); err != nil {
		return fmt.Errorf("register with %s: %w", u.relay, recvError(call, err))
	}
	answer, err := call.Recv()
	if err != nil {
		return fmt.Errorf("register with %s: %w", u.relay, err)
	}
	reg := answer.GetRegistered()
	if reg == nil {
		return fmt.Errorf("register with %s: the answer is not a registration", u.relay)
	}
	a.tunnels.Add(1)
	defer a.tunnels.Add(-1)
	a.cfg.Log.Info("tunnel up", "relay", u.relay, "relay_id", reg.GetRelayId(), "relay_version", reg.GetVersion())

	heard := make(chan error, 1)
	go func() { heard <- u.listen(call) }() // ends with the call, which ends when hard does
	err = u.report(ctx, call, reg.GetWantPods(), heard)
	_ = call.CloseSend()
	return err
}

// recvError returns what the server said about a call that could not be sent
// on.
func recvError(call grpc.BidiStreamingClient[controlv1.AttendRequest, controlv1.AttendResponse], err error) error {
	if _, rerr := call.Recv(); rerr != nil {
		return rerr
	}
	return err
}

func (a *Agent) registration() *controlv1.Register {
	r := &controlv1.Register{
		Node: a.cfg.Node, Instance: a.instance, Version: a.cfg.Version,
		ProtocolVersion: stream.Version, Started: timestamppb.New(a.started),
	}
	if a.cfg.Policy.AllowHostNetwork {
		r.Capabilities = append(r.Capabilities, "host-network")
	}
	return r
}

// listen hears what the relay says.
func (u *uplink) listen(call grpc.BidiStreamingClient[controlv1.AttendRequest, controlv1.AttendResponse]) error {
	for {
		m, err := call.Recv()
		if err != nil {
			return fmt.Errorf("attend %s: %w", u.relay, err)
		}
		if g := m.GetGoingAway(); g != nil {
			u.agent.cfg.Log.Info("relay is going away", "relay", u.relay, "reason", g.GetReason())
			u.once.Do(func() { close(u.replaced) })
		}
	}
}

// report tells the relay about pods, and that the agent leaves.
func (u *uplink) report(ctx context.Context, call grpc.BidiStreamingClient[controlv1.AttendRequest, controlv1.AttendResponse], wantPods bool, heard <-chan error) error {
	a := u.agent
	known := map[string]sandbox.Pod(nil)
	leaving := ctx.Done()
	for {
		changed := a.podsChanged()
		if wantPods {
			now := podsByUID(a.cfg.Pods.List())
			if err := sendPods(call, known, now); err != nil {
				return recvError(call, err)
			}
			known = now
		}
		select {
		case <-changed:
		case err := <-heard:
			return err
		case <-leaving:
			leaving = nil
			bye := &controlv1.GoingAway{Reason: "agent is shutting down", Grace: durationpb.New(a.cfg.DrainTimeout)}
			if err := call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_GoingAway{GoingAway: bye}}); err != nil {
				return recvError(call, err)
			}
		}
	}
}

func podsByUID(pods []sandbox.Pod) map[string]sandbox.Pod {
	m := make(map[string]sandbox.Pod, len(pods))
	for _, p := range pods {
		m[p.UID] = p
	}
	return m
}

// sendPods sends what makes now of known. A known of nil makes the report full.
func sendPods(call grpc.BidiStreamingClient[controlv1.AttendRequest, controlv1.AttendResponse], known, now map[string]sandbox.Pod) error {
	c := &controlv1.PodChanges{Full: known == nil}
	flush := func() error {
		err := call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Pods{Pods: c}})
		c = &controlv1.PodChanges{}
		return err
	}
	for uid := range known {
		if _, still := now[uid]; !still {
			c.Removed = append(c.Removed, uid)
		}
	}
	for uid, p := range now {
		if old, was := known[uid]; was && old == p {
			continue
		}
		c.Upsert = append(c.Upsert, protoPod(p))
		if len(c.GetUpsert()) == podBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if !c.GetFull() && len(c.GetUpsert()) == 0 && len(c.GetRemoved()) == 0 {
		return nil
	}
	return flush()
}

func protoPod(p sandbox.Pod) *controlv1.Pod {
	return &controlv1.Pod{
		Namespace: p.Namespace, Name: p.Name, Uid: p.UID,
		HostNetwork: p.HostNetwork, Created: timestamppb.New(p.Created),
	}
}
