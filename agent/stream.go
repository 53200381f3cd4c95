package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// maxControls bounds the streams on which one relay asks questions at once. It
// needs one; each costs a gRPC connection.
const maxControls = 8

// stream serves one stream a relay opened.
func (u *uplink) stream(ctx context.Context, st *tunnel.Stream) {
	a := u.agent
	_ = st.SetDeadline(time.Now().Add(a.cfg.OpenTimeout))
	open, err := stream.ReadOpen(st)
	switch {
	case err != nil:
		st.Refuse(err)
		a.metrics.stream(err, forward.Stats{})
		u.log.Debug("stream without a request", "err", err)
	case open.Kind == stream.KindControl:
		u.question(st)
	case open.Kind == stream.KindForward:
		a.began()
		defer a.ended()
		u.forward(ctx, st, open)
	case open.Kind == stream.KindAPI:
		a.began()
		defer a.ended()
		u.api(ctx, st, open)
	default:
		st.Refuse(&stream.Error{Code: stream.Unsupported, Text: fmt.Sprintf("streams of kind %s are not served here", open.Kind)})
	}
}

// question hands a stream to the server that answers relays. There is no reply
// to such a stream: one too many is reset.
func (u *uplink) question(st *tunnel.Stream) {
	if u.questions.Add(1) > maxControls {
		u.questions.Add(-1)
		_ = st.Reset()
		return
	}
	_ = st.SetDeadline(time.Time{})
	q := &question{Stream: st, ended: sync.OnceFunc(func() { u.questions.Add(-1) })}
	if err := u.agent.control.Deliver(q, u.relay); err != nil { // it has closed q
		u.log.Debug("question refused", "err", err)
	}
}

// question is a stream that counts as long as it is open.
type question struct {
	*tunnel.Stream
	ended func()
}

func (q *question) Close() error {
	defer q.ended()
	return q.Stream.Close()
}

// began and ended count the streams that run.
func (a *Agent) began() { a.running.Add(1) }

func (a *Agent) ended() {
	if a.running.Add(-1) == 0 {
		select {
		case a.idle <- struct{}{}:
		default:
		}
	}
}

// forward reaches the pod, answers, and joins the two.
func (u *uplink) forward(ctx context.Context, st *tunnel.Stream, open *stream.Open) {
	began := time.Now()
	pod, conn, err := u.agent.reach(ctx, open)
	if err != nil {
		st.Refuse(err)
		u.account(open, pod, forward.Stats{}, err, began)
		return
	}
	if err := u.accept(st, open); err != nil {
		_ = conn.Reset(err)
		_ = st.Reset()
		u.account(open, pod, forward.Stats{}, err, began)
		return
	}
	ctx, leave := u.agent.visits.enter(ctx, pod)
	defer leave()
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	st.Charge(open.User, func() { cut(crowds()) })
	stats, err := u.agent.joiner.Join(ctx, tunnel.NewConn(st), wrapPod(conn), nil)
	u.account(open, pod, stats, err, began)
}

// accept tells the client that the pod has accepted.
func (u *uplink) accept(st *tunnel.Stream, open *stream.Open) error {
	b, err := stream.AppendReply(nil, &stream.Reply{Version: open.Version})
	if err != nil {
		return err
	}
	_ = st.SetDeadline(time.Now().Add(u.agent.cfg.OpenTimeout))
	write := st.Write
	if st.Ready() {
		// The client has spoken already, so most pods say something at once, and that
		// leaves in the same packet. One that waits for the answer, as kubectl does, must
		// not wait for that.
		write = st.WriteSoon
	}
	if _, err = write(b); err != nil {
		return fmt.Errorf("answer stream: %w", err)
	}
	_ = st.SetDeadline(time.Time{})
	return nil
}

// reach connects to the pod. When the tunnel was lost meanwhile, that is the
// reason why not.
func (a *Agent) reach(ctx context.Context, open *stream.Open) (sandbox.Pod, forward.Conn, error) {
	if a.isLeaving() {
		return sandbox.Pod{}, nil, leaving()
	}
	limited, cancel := context.WithTimeout(ctx, a.cfg.OpenTimeout)
	defer cancel()
	limited, leave := a.visits.enter(limited, sandbox.Pod{UID: open.UID})
	defer leave()
	began := time.Now()
	pod, conn, err := a.cfg.Pods.Connect(limited, open.UID, open.Port)
	a.metrics.dialled.Observe("", time.Since(began))
	if err != nil && errors.Is(limited.Err(), context.Canceled) { // the pod is gone, or the tunnel
		err = fmt.Errorf("reach pod: %w", context.Cause(limited))
	}
	return pod, conn, err
}

func (a *Agent) isLeaving() bool {
	select {
	case <-a.leaving:
		return true
	default:
		return false
	}
}

// account counts a stream and writes the one line a stream leaves. The pod is
// named as this node knows it; one that it does not know, as the relay called it.
func (u *uplink) account(open *stream.Open, pod sandbox.Pod, stats forward.Stats, err error, began time.Time) {
	name := pod.Namespace + "/" + pod.Name
	if pod.UID == "" {
		name = open.Namespace + "/" + open.Pod
	}
	code, reason := outcome(err)
	u.agent.metrics.stream(err, stats)
	u.agent.cfg.Log.Info("stream",
		"id", open.ID.String(), "user", open.User, "relay", u.relay, "addr", u.addr, "node", u.agent.cfg.Node,
		"pod", name, "uid", open.UID, "port", open.Port,
		"bytes_up", stats.AtoB, "bytes_down", stats.BtoA, "code", code, "reason", reason, "trace", open.Trace.TraceID(),
		"duration", time.Since(began).Round(time.Microsecond).String())
}
