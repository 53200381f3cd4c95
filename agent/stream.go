package agent

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// stream serves one stream a relay opened.
func (u *uplink) stream(ctx context.Context, st *tunnel.Stream) {
	a := u.agent
	_ = st.SetDeadline(time.Now().Add(a.cfg.OpenTimeout))
	open, err := stream.ReadOpen(st)
	switch {
	case err != nil:
		refuse(st, err)
	case open.Kind == stream.KindControl:
		_ = st.SetDeadline(time.Time{})
		u.acceptControl(st)
	case open.Kind == stream.KindForward:
		a.began()
		defer a.ended()
		u.forward(ctx, st, open)
	default:
		refuse(st, &stream.Error{Code: stream.Unsupported, Text: fmt.Sprintf("streams of kind %s are not served here", open.Kind)})
	}
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
	a := u.agent
	began := time.Now()
	pod, conn, err := a.reach(ctx, open)
	if err != nil {
		refuse(st, err)
		u.account(open, pod, forward.Stats{}, err, began)
		return
	}
	b, err := stream.AppendReply(nil, &stream.Reply{Version: open.Version})
	if err == nil {
		_, err = st.Write(b)
	}
	if err != nil {
		_ = conn.Reset(err)
		_ = st.Reset()
		u.account(open, pod, forward.Stats{}, err, began)
		return
	}
	_ = st.SetDeadline(time.Time{})
	far := tunnel.NewConn(st)
	far.AbortCode = stream.PodReset
	stats, err := a.joiner.Join(ctx, far, conn, nil)
	u.account(open, pod, stats, err, began)
}

// reach finds the pod, asks the policy and dials.
func (a *Agent) reach(ctx context.Context, open *stream.Open) (sandbox.Pod, forward.Conn, error) {
	if a.isLeaving() {
		return sandbox.Pod{}, nil, &stream.Error{Code: stream.GoingAway, Text: "agent is shutting down"}
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.OpenTimeout)
	defer cancel()
	pod, err := a.cfg.Pods.Lookup(ctx, open.UID)
	if err != nil {
		return pod, nil, explain(err, open)
	}
	if err := a.cfg.Policy.Check(pod, open.Port); err != nil {
		return pod, nil, err
	}
	conn, err := a.cfg.Dial.DialPod(ctx, pod, open.Port)
	if err != nil {
		return pod, nil, explain(err, open)
	}
	return pod, conn, nil
}

func (a *Agent) isLeaving() bool {
	select {
	case <-a.leaving:
		return true
	default:
		return false
	}
}

// explain gives an error its code. This is the last place that sees what the
// kernel said.
func explain(err error, open *stream.Open) error {
	code, text := stream.Internal, ""
	switch {
	case errors.As(err, new(*stream.Error)):
		return err
	case errors.Is(err, sandbox.ErrNotFound):
		code, text = stream.WrongNode, "the pod is not on this node any more"
	case errors.Is(err, netns.ErrGone):
		code, text = stream.NamespaceGone, "the pod's network is gone"
	case errors.Is(err, netns.ErrHost):
		code, text = stream.Policy, "the pod shares the network of the agent itself"
	case errors.Is(err, netns.ErrBusy):
		code, text = stream.Overloaded, "the node dials as many pods as it may at once"
	case errors.Is(err, syscall.ECONNREFUSED):
		code, text = stream.NotListening, fmt.Sprintf("nothing listens on localhost port %d in the pod", open.Port)
	case errors.Is(err, context.DeadlineExceeded):
		code, text = stream.Timeout, fmt.Sprintf("port %d in the pod did not accept in time", open.Port)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		code, text = stream.Unreachable, "the pod's localhost cannot be reached"
	}
	return &coded{wire: &stream.Error{Code: code, Text: text}, cause: err}
}

// coded is an error for the wire that keeps its cause for the log.
type coded struct {
	wire  *stream.Error
	cause error
}

func (e *coded) Error() string { return e.cause.Error() }

func (e *coded) Unwrap() []error { return []error{e.wire, e.cause} }

// refuse answers an Open with an error and ends the stream.
func refuse(st *tunnel.Stream, err error) {
	r := &stream.Reply{Version: stream.Version, Code: stream.CodeOf(err)}
	if e := (*stream.Error)(nil); errors.As(err, &e) {
		r.Text = e.Text
	}
	_ = st.SetDeadline(time.Now().Add(time.Second))
	if b, aerr := stream.AppendReply(nil, r); aerr == nil {
		_, _ = st.WriteLast(b)
	}
	_ = st.Close()
}

// account counts a stream and writes the one line a stream leaves.
func (u *uplink) account(open *stream.Open, pod sandbox.Pod, stats forward.Stats, err error, began time.Time) {
	code := stream.CodeOf(err)
	reason := ""
	if err != nil {
		reason = err.Error()
		if code == stream.Internal && errors.Is(err, forward.ErrReset) {
			code = stream.PodReset
		}
	}
	u.agent.metrics.stream(code, stats)
	u.agent.cfg.Log.Info("stream",
		"id", open.ID.String(), "user", open.User, "relay", u.relay, "node", u.agent.cfg.Node,
		"pod", pod.Namespace+"/"+pod.Name, "uid", open.UID, "port", open.Port,
		"bytes_up", stats.AtoB, "bytes_down", stats.BtoA, "code", code.String(), "reason", reason,
		"duration", time.Since(began).Round(time.Microsecond).String())
}
