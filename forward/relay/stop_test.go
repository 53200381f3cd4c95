package relay

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func (r *rig) viewOf(name string) controlv1.ViewClient {
	r.t.Helper()
	return controlv1.NewViewClient(r.connect(Identity{Role: RoleUser, Name: name}, tunnel.Config{}).calls())
}

// Who stops what: his own, or all if he may. Who may not is not told that it is
// there.
func TestWhoStopsWhat(t *testing.T) {
	for name, want := range map[string]codes.Code{"alice": codes.OK, "admin": codes.OK, "mallory": codes.NotFound, "nobody": codes.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			book := newLedger(t, audit.Config{})
			r := newRig(t, Config{Oversee: admin{}, Audit: book.Log})
			r.control()
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			p := r.forward(r.client(), node)
			id := r.s.flows.list()[0].id.String()
			answer, err := r.viewOf(name).StopStream(within(t), &controlv1.StopStreamRequest{Id: id[:8]})
			if status.Code(err) != want {
				t.Fatalf("%v, want %s", err, want)
			}
			if err != nil {
				if strings.Contains(status.Convert(err).Message(), "alice") {
					t.Errorf("says too much: %v", err)
				}
				sibling(t, p)
				return
			}
			if answer.GetStream().GetId() != id || answer.GetStream().GetUser() != "alice" || answer.GetStream().GetOwn() != (name == "alice") {
				t.Errorf("%v", answer)
			}
			for who, end := range map[string]*tunnel.Stream{"client": p.client, "agent": p.agent} {
				if got := next(end); got != "reset(stopped)" {
					t.Errorf("%s hears %q", who, got)
				}
				_ = end.Close()
			}
			_, all := book.records(t, 2)
			if all[1]["code"] != "stopped" || all[1]["stopped_by"] != name || all[1]["reason"] != "stopped by "+name {
				t.Errorf("%v", all[1])
			}
			if r.verdict(1) != "stopped" {
				t.Error("logged as something else")
			}
		})
	}
}

func TestStopTellsWhatIsWrong(t *testing.T) {
	r := newRig(t, Config{})
	r.control()
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	alice := r.client()
	open := func(last byte) pair {
		id := stream.ID{0xaa, 0xbb, 0xcc, 0xdd, 15: last}
		c := alice.open(&stream.Open{Kind: stream.KindForward, ID: id, Namespace: "shop", Pod: "web", Port: 80})
		a, _ := node.accept()
		answer(t, a, stream.OK, "")
		if _, err := stream.ReadReply(c); err != nil {
			t.Fatal(err)
		}
		return pair{c, a}
	}
	one, two := open(1), open(2)
	v := r.viewOf("token") // who has the relay's token
	for id, want := range map[string]codes.Code{
		"": codes.InvalidArgument, "aabbccd": codes.InvalidArgument, "AABBCCDD": codes.InvalidArgument, strings.Repeat("a", 33): codes.InvalidArgument,
		"aabbccdd": codes.FailedPrecondition, "aabbccde": codes.NotFound,
	} {
		if _, err := v.StopStream(within(t), &controlv1.StopStreamRequest{Id: id}); status.Code(err) != want {
			t.Errorf("%q: %v, want %s", id, err, want)
		}
	}
	if _, err := v.StopStream(within(t), &controlv1.StopStreamRequest{Id: stream.ID{0xaa, 0xbb, 0xcc, 0xdd, 15: 2}.String()}); err != nil {
		t.Error(err)
	}
	if got := next(two.client); got != "reset(stopped)" {
		t.Errorf("hears %q", got)
	}
	_ = two.client.Close()
	_ = two.agent.Close()
	sibling(t, one)
}

// A client that gives its streams one id keeps nobody from stopping them.
func TestStopStreamsOfOneID(t *testing.T) {
	r := newRig(t, Config{Oversee: admin{}})
	r.control()
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	alice, id := r.client(), stream.NewID()
	var ends []*tunnel.Stream
	for range 2 {
		c := alice.open(&stream.Open{Kind: stream.KindForward, ID: id, Namespace: "shop", Pod: "web", Port: 80})
		a, _ := node.accept()
		answer(t, a, stream.OK, "")
		if _, err := stream.ReadReply(c); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, c, a)
	}
	v := r.viewOf("admin")
	if _, err := v.StopStream(within(t), &controlv1.StopStreamRequest{Id: id.String()[:31]}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("by a part of it: %v", err)
	}
	if _, err := v.StopStream(within(t), &controlv1.StopStreamRequest{Id: id.String()}); err != nil {
		t.Fatal(err)
	}
	for i, end := range ends {
		if got := next(end); got != "reset(stopped)" {
			t.Errorf("end %d hears %q", i, got)
		}
		_ = end.Close()
	}
}

// A connection of kubectl is stopped too, before and after it is joined.
func TestStopAtKubectlsDoor(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprint(early), func(t *testing.T) {
			r := newRig(t, Config{})
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			l, a := r.linked(node)
			f := r.s.flows.list()[0]
			if early {
				f.stopper.stop("admin")
			}
			c, done := r.joined(within(t), l)
			f.stopper.stop("admin")
			f.stopper.stop("somebody else") // late
			if err := <-done; stream.CodeOf(err) != stream.Stopped {
				t.Errorf("join: %v", err)
			}
			if got := next(a); got != "reset(stopped)" {
				t.Errorf("agent hears %q", got)
			}
			if _, err := readAll(c); err == nil {
				t.Error("the client sees a clean end")
			}
			if r.verdict(1) != "stopped" {
				t.Error("logged as something else")
			}
			_ = a.Close()
			_ = c.Close()
		})
	}
}

func TestStreamsAreChosen(t *testing.T) {
	r := newRig(t, Config{Oversee: admin{}})
	r.control()
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	alice, bob := r.client(), r.connect(Identity{Role: RoleUser, Name: "bob"}, tunnel.Config{})
	for _, l := range []*link{alice, alice, bob} {
		_ = r.forward(l, node)
	}
	for name, tc := range map[string]struct {
		who  string
		q    *controlv1.ListStreamsRequest
		want int
		left uint32
	}{
		"all":             {"admin", &controlv1.ListStreamsRequest{}, 3, 0},
		"of a user":       {"admin", &controlv1.ListStreamsRequest{User: "alice"}, 2, 0},
		"of a pod":        {"admin", &controlv1.ListStreamsRequest{Namespace: "shop", Pod: "web"}, 3, 0},
		"of another":      {"admin", &controlv1.ListStreamsRequest{Namespace: "other"}, 0, 0},
		"not so many":     {"admin", &controlv1.ListStreamsRequest{Limit: 2}, 2, 1},
		"own":             {"bob", &controlv1.ListStreamsRequest{}, 1, 0},
		"own of somebody": {"bob", &controlv1.ListStreamsRequest{User: "alice"}, 0, 0},
	} {
		got, err := r.viewOf(tc.who).ListStreams(within(t), tc.q)
		if err != nil || len(got.GetStreams()) != tc.want || got.GetLeftOut() != tc.left || got.GetAll() != (tc.who == "admin") || got.GetRelayId() != r.s.ID() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// The trace of a request is in the Open to the agent, in the log and in the records,
// from either door.
func TestTraceGoesThrough(t *testing.T) {
	book := newLedger(t, audit.Config{})
	r := newRig(t, Config{Audit: book.Log})
	r.control()
	node, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	trace := stream.NewTrace()
	c := r.client().open(&stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: "shop", Pod: "web", Port: 80, Trace: trace})
	a, open := node.accept()
	if open.Trace != trace {
		t.Errorf("the agent is told %q, not %q", open.Trace, trace)
	}
	answer(t, a, stream.OK, "")
	if _, err := stream.ReadReply(c); err != nil {
		t.Fatal(err)
	}
	if got, err := r.viewOf("alice").ListStreams(context.Background(), &controlv1.ListStreamsRequest{}); err != nil || got.GetStreams()[0].GetTraceId() != trace.TraceID() {
		t.Errorf("%v, %v", got, err)
	}
	sibling(t, pair{c, a})
	_, all := book.records(t, 2)
	if line := r.log.all(t, "stream")[0]; line["trace"] != trace.TraceID() || all[0]["trace"] != trace.TraceID() || all[1]["trace"] != trace.TraceID() {
		t.Errorf("%v\n%v", line, all)
	}
	call := bob
	call.Trace = trace.Child()
	d := r.dial(within(t), call)
	a, open = node.accept()
	if open.Trace != call.Trace {
		t.Errorf("the agent is told %q, not %q", open.Trace, call.Trace)
	}
	refuse(a, stream.NotListening)
	<-d.done
	_ = a.Close()
	if _, all = book.records(t, 3); all[2]["trace"] != trace.TraceID() {
		t.Errorf("%v", all[2])
	}
}
