package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// renewCheck is how long it is waited for the credential of a tunnel to become
	// due until the clock is looked at again, and after a failure.
	renewCheck = time.Hour
	// renewPause is the shortest time between two renewals.
	renewPause = time.Second
	// maxSaid bounds, in bytes, what a relay says of itself for the log.
	maxSaid = 256
	// maxSpread bounds how long a relay may ask to wait before it is replaced.
	maxSpread = 5 * time.Minute
)

// errSilent ends a tunnel whose relay does not answer the registration.
var errSilent = errors.New("relay did not answer the registration in time")

// attendance is the call that registers a tunnel.
type attendance = grpc.BidiStreamingClient[controlv1.AttendRequest, controlv1.AttendResponse]

// uplink is one tunnel to a relay.
type uplink struct {
	agent     *Agent
	relay     string       // host:port as the agent was given it
	addr      string       // host:port that was dialled
	log       *slog.Logger // knows the relay and its address
	sess      *tunnel.Session
	control   *grpc.ClientConn
	shown     Credential
	tie       *tie
	questions atomic.Int32  // open streams on which the relay asks
	known     chan struct{} // closed when the tunnel is registered
	replaced  chan struct{} // closed when the relay said that it goes away
	spread    time.Duration // over which it wants to be replaced; before replaced is closed
	once      sync.Once
}

// serve registers the tunnel and takes streams from it until life ends, which
// end does: here when the tunnel is of no use any more, above at the end of the
// agent. When ctx ends it says goodbye and goes on. It returns when all it
// started has ended.
func (u *uplink) serve(ctx, life context.Context, end context.CancelCauseFunc) {
	defer u.agent.fleet.leave(u.tie)
	var beside sync.WaitGroup
	beside.Go(func() { end(u.gone(u.attend(ctx, life))) })
	beside.Go(func() { u.renew(life) })
	beside.Go(func() { // who still waits for a pod need not, once the tunnel is lost
		select {
		case <-u.sess.Done():
			end(u.gone(nil))
		case <-life.Done():
		}
	})
	end(u.gone(u.sess.Serve(life, func(st *tunnel.Stream) { u.stream(life, st) })))
	beside.Wait()
	cause := context.Cause(life)
	_ = u.control.Close()
	_ = u.sess.CloseWithError(cause)
	level := slog.LevelWarn
	if _, same := isSame(cause); same {
		level = slog.LevelDebug
	} else if ctx.Err() != nil {
		level = slog.LevelInfo
	}
	u.log.Log(context.WithoutCancel(ctx), level, "tunnel ended", "err", cause)
}

// gone is why the tunnel ends: the session's own reason if it has ended, which is
// what every call on it then fails with, or else err.
func (u *uplink) gone(err error) error {
	if ended := u.sess.Err(); ended != nil {
		err = ended
	}
	return lost(err)
}

// attend registers and reports until the call ends.
func (u *uplink) attend(ctx, life context.Context) error {
	life, hangUp := context.WithCancelCause(life)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer hangUp(nil)
	late := time.AfterFunc(u.agent.cfg.DialTimeout, func() { hangUp(errSilent) })
	call, reg, err := u.register(life)
	if !late.Stop() && err != nil {
		err = context.Cause(life)
	}
	if err != nil {
		return fmt.Errorf("register with %s: %w", u.relay, err)
	}
	if n := reg.GetSameAs(); n != 0 {
		return &sameRelayError{n}
	}
	u.agent.fleet.registered(u.tie, reg.GetRelayId())
	defer u.agent.fleet.leave(u.tie)
	close(u.known)
	u.agent.tunnels.Add(1)
	defer u.agent.tunnels.Add(-1)
	defer u.agent.metrics.tunnel(u)()
	u.log.Info("tunnel up", "relay_id", clip(reg.GetRelayId()), "relay_version", clip(reg.GetVersion()))

	heard := make(chan error, 1)
	listening.Go(func() { heard <- u.listen(call) })
	return fmt.Errorf("attend %s: %w", u.relay, u.report(ctx, call, reg.GetWantPods(), heard))
}

// register makes the call that lasts as long as the registration.
func (u *uplink) register(ctx context.Context) (attendance, *controlv1.Registered, error) {
	call, err := controlv1.NewRegistryClient(u.control).Attend(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_Register{Register: u.registration()}}); err != nil {
		return nil, nil, recvError(call, err)
	}
	answer, err := call.Recv()
	if err != nil {
		return nil, nil, err
	}
	reg := answer.GetRegistered()
	if reg == nil {
		return nil, nil, errors.New("the answer is not a registration")
	}
	return call, reg, nil
}

// recvError returns what the server said about a call that could not be sent
// on.
func recvError(call attendance, err error) error {
	if _, rerr := call.Recv(); rerr != nil {
		return rerr
	}
	return err
}

func (u *uplink) registration() *controlv1.Register {
	a := u.agent
	r := &controlv1.Register{
		Node: a.cfg.Node, Instance: a.instance, Version: a.cfg.Version,
		ProtocolVersion: stream.Version, Started: timestamppb.New(a.started),
		Tunnel: u.tie.number, Others: a.fleet.others(u.tie),
	}
	if a.cfg.Pods.HostNetwork() {
		r.Capabilities = append(r.Capabilities, "host-network")
	}
	if a.cfg.APIServer != "" {
		r.Capabilities = append(r.Capabilities, capabilityAPI)
	}
	return r
}

// listen hears what the relay says until the call ends.
func (u *uplink) listen(call attendance) error {
	for {
		m, err := call.Recv()
		if err != nil {
			return err
		}
		if p := m.GetPeers(); p != nil {
			u.agent.fleet.told(u.tie, peersFrom(p, u.sess.RemoteAddr()))
		}
		if g := m.GetGoingAway(); g != nil {
			u.once.Do(func() {
				u.log.Info("relay is going away", "reason", clip(g.GetReason()))
				u.spread = min(max(g.GetSpread().AsDuration(), 0), maxSpread)
				u.agent.fleet.leave(u.tie)
				close(u.replaced)
			})
		}
	}
}

// report tells the relay about pods, and that the agent leaves. Of its own errors
// it returns the one that the relay gave as the reason.
func (u *uplink) report(ctx context.Context, call attendance, wantPods bool, heard <-chan error) error {
	a := u.agent
	pods := reported{call: call}
	quit := ctx.Done()
	for {
		var changed <-chan struct{}
		if wantPods {
			changed = a.podsChanged()
			if err := pods.update(a.cfg.Pods.List()); err != nil {
				return <-heard // the call is over, and the listener knows why
			}
		}
		select {
		case <-changed:
		case err := <-heard:
			return err
		case <-quit:
			quit = nil
			bye := &controlv1.GoingAway{Reason: "agent is shutting down", Grace: durationpb.New(a.cfg.DrainTimeout)}
			if err := call.Send(&controlv1.AttendRequest{Kind: &controlv1.AttendRequest_GoingAway{GoingAway: bye}}); err != nil {
				return <-heard
			}
		}
	}
}

// renew renews what this tunnel shows the relay when that is due, however long
// the tunnel lasts. It looks from time to time, because the clock may be set.
func (u *uplink) renew(ctx context.Context) {
	a := u.agent
	said := complaint{log: u.log}
	registry := controlv1.NewRegistryClient(u.control)
	for due := u.shown.RenewAt; !due.IsZero(); {
		if wait := time.Until(due); wait > 0 {
			if !connect.Sleep(ctx, min(wait, connect.UpperHalf(renewCheck))) {
				return
			}
			continue
		}
		limited, cancel := context.WithTimeout(ctx, a.cfg.DialTimeout)
		next, err := u.shown.Renew(limited, registry)
		cancel()
		if ctx.Err() == nil && !errors.Is(err, errSameToken) {
			u.agent.metrics.renewed(err)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errSameToken):
			u.log.Debug("credential not renewed", "err", err)
		case err != nil:
			said.warn("credential not renewed", err)
		case !next.IsZero():
			u.log.Info("credential renewed", "renew_at", next)
		}
		if err != nil && next.IsZero() {
			next = time.Now().Add(connect.UpperHalf(renewCheck))
		}
		// Whatever it says: not in a loop.
		if soon := time.Now().Add(renewPause); !next.IsZero() && next.Before(soon) {
			next = soon
		}
		due = next
	}
}

// clip bounds what a relay says before it is logged.
func clip(s string) string { return s[:min(len(s), maxSaid)] }
