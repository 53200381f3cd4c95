package relay

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// memory is a Locator that remembers a place until it is told that it was wrong.
type memory struct {
	mu        sync.Mutex
	places    []Place
	forgotten []Place
	asked     int
	err       error         // what it says when it has no place left
	wait      chan struct{} // if not nil, the second place is waited for
}

func (m *memory) Locate(ctx context.Context, _ Identity, _ Target) (Place, error) {
	m.mu.Lock()
	m.asked++
	wait := m.wait
	if len(m.forgotten) == 0 {
		wait = nil
	}
	m.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return Place{}, context.Cause(ctx)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.places) == 0 {
		return Place{}, m.err
	}
	return m.places[0], nil
}

func (m *memory) Forget(_ Target, wrong Place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten = append(m.forgotten, wrong)
	if len(m.places) > 0 && m.places[0] == wrong {
		m.places = m.places[1:]
	}
}

var (
	oldPlace = Place{Node: "node-a", UID: "uid-1"}
	newPlace = Place{Node: "node-b", UID: "uid-2"}
)

// moved makes a relay that believes a pod to be on node-a, though it is on node-b.
func moved(t *testing.T) (r *rig, m *memory, client, a, b *link) {
	m = &memory{places: []Place{oldPlace, newPlace}, err: &stream.Error{Code: stream.PodNotFound, Text: "no such pod"}}
	r = newRig(t, Config{Locate: m})
	a, _ = r.node("node-a")
	b, _ = r.node("node-b")
	return r, m, r.client(), a, b
}

// roundTrip returns when the relay has taken in all that was sent before.
func (l *link) roundTrip() {
	l.t.Helper()
	st := l.open(&stream.Open{Kind: stream.KindAPI, ID: stream.NewID()})
	if reply, err := stream.ReadReply(st); err != nil || reply.Code != stream.Unsupported {
		l.t.Errorf("reply %+v, %v", reply, err)
	}
	_ = st.Close()
}

func refuse(st *tunnel.Stream, code stream.Code) {
	st.Refuse(&stream.Error{Code: code, Text: "not here"})
}

// A stream that was sent to the wrong place goes to the right one, with all that the
// client had sent by then, once and in order; however much of it came how early.
func TestWrongPlaceIsTriedOnceMore(t *testing.T) {
	for name, tc := range map[string]struct {
		code   stream.Code
		before [][]byte // before the agent refuses
		during [][]byte // while the other place is looked for
		want   string   // what the right agent reads of it
	}{
		"wrong node":              {code: stream.WrongNode},
		"pod not found":           {code: stream.PodNotFound, before: [][]byte{data("early")}, want: "early"},
		"namespace gone":          {code: stream.NamespaceGone, before: [][]byte{data("one"), data("two")}, during: [][]byte{data("three")}, want: "one two three"},
		"agent goes away":         {code: stream.GoingAway, during: [][]byte{data("late")}, want: "late"},
		"half a frame":            {code: stream.WrongNode, before: [][]byte{data("frame")[:6]}, during: [][]byte{data("frame")[6:]}, want: "frame"},
		"all there is":            {code: stream.WrongNode, before: [][]byte{data("request"), fin()}, want: "request fin"},
		"finished while searched": {code: stream.WrongNode, before: [][]byte{data("request")}, during: [][]byte{fin()}, want: "request fin"},
	} {
		t.Run(name, func(t *testing.T) {
			r, m, client, a, b := moved(t)
			m.wait = make(chan struct{})
			c := client.ask("shop", "web")
			wrong, open := a.accept()
			if open.UID != "uid-1" {
				t.Errorf("the first is asked for %s", open.UID)
			}
			write(t, c, tc.before...)
			for range tc.before { // they go on at once
				if strings.HasPrefix(name, "half") {
					var b [6]byte
					_, _ = wrong.Read(b[:])
				} else {
					next(wrong)
				}
			}
			refuse(wrong, tc.code)
			eventually(t, "the place is forgotten", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.forgotten) == 1 })
			write(t, c, tc.during...)
			close(m.wait)
			right, open := b.accept()
			if open.UID != "uid-2" || open.Pod != "web" || open.User != "alice" {
				t.Errorf("the second is asked for %+v", open)
			}
			var got []string
			for range strings.FieldsSeq(tc.want) {
				got = append(got, next(right))
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("the second reads %q, want %q", s, tc.want)
			}
			answer(t, right, stream.OK, "")
			if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.OK {
				t.Fatalf("client reads %+v, %v", reply, err)
			}
			if !strings.HasSuffix(tc.want, "fin") {
				write(t, c, data("more"), fin())
				if s := next(right) + " " + next(right); s != "more fin" {
					t.Errorf("then the second reads %q", s)
				}
			}
			write(t, right, data("answer"), fin())
			if s := next(c) + " " + next(c); s != "answer fin" {
				t.Errorf("client reads %q", s)
			}
			if code := r.verdict(1); code != "ok" {
				t.Errorf("logged as %s", code)
			}
			if line := r.log.all(t, "stream")[0]; line["node"] != "node-b" || line["uid"] != "uid-2" {
				t.Errorf("logged %v", line)
			}
			_, _, _ = c.Close(), right.Close(), wrong.Close()
			r.quiet(client, a, b)
		})
	}
}

// What the relay cannot send again is not sent in part: the client hears that
// another try will do.
func TestTooMuchCameEarly(t *testing.T) {
	r, m, client, a, b := moved(t)
	c := client.ask("shop", "web")
	wrong, _ := a.accept()
	chunk := strings.Repeat("x", 10000)
	for range 2 {
		write(t, c, data(chunk))
		if got := next(wrong); got != chunk {
			t.Fatalf("%d bytes", len(got))
		}
	}
	refuse(wrong, stream.WrongNode)
	reply, err := stream.ReadReply(c)
	if err != nil || reply.Code != stream.WrongNode || !strings.Contains(reply.Text, "try again") {
		t.Fatalf("client reads %+v, %v", reply, err)
	}
	if len(m.forgotten) != 1 {
		t.Errorf("forgotten: %v", m.forgotten)
	}
	_, _ = c.Close(), wrong.Close()
	c = client.ask("shop", "web")
	right, _ := b.accept()
	refuse(right, stream.NotListening)
	if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.NotListening {
		t.Errorf("then the client reads %+v, %v", reply, err)
	}
	_, _ = c.Close(), right.Close()
	r.quiet(client, a, b)
}

// There is one more try, and its answer stands.
func TestSecondRefusalStands(t *testing.T) {
	for name, tc := range map[string]struct {
		places []Place
		second func(b *link)
		code   stream.Code
	}{
		"nowhere":   {[]Place{oldPlace}, nil, stream.PodNotFound},
		"no agent":  {[]Place{oldPlace, {Node: "node-z", UID: "uid-2"}}, nil, stream.AgentOffline},
		"wrong too": {[]Place{oldPlace, newPlace, oldPlace}, func(b *link) { st, _ := b.accept(); refuse(st, stream.WrongNode) }, stream.WrongNode},
		"no answer": {[]Place{oldPlace, newPlace}, func(b *link) { st, _ := b.accept(); _ = st.Reset() }, stream.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			r, m, client, a, b := moved(t)
			m.places = tc.places
			c := client.ask("shop", "web")
			wrong, _ := a.accept()
			refuse(wrong, stream.WrongNode)
			if tc.second != nil {
				tc.second(b)
			}
			if reply, err := stream.ReadReply(c); err != nil || reply.Code != tc.code {
				t.Fatalf("client reads %+v, %v", reply, err)
			}
			if got := r.verdict(1); got != tc.code.String() {
				t.Errorf("logged as %s", got)
			}
			if m.asked != 2 || len(m.forgotten) != 1 {
				t.Errorf("asked %d times, forgotten %v", m.asked, m.forgotten)
			}
			_, _ = c.Close(), wrong.Close()
			r.quiet(client, a, b)
		})
	}
}

// Other refusals say nothing about the place, and a place that no agent serves is
// wrong before anything was sent.
func TestWhichRefusalsMeanThePlace(t *testing.T) {
	for code, again := range map[stream.Code]bool{
		stream.NotListening: false, stream.Policy: false, stream.Timeout: false, stream.Overloaded: false, stream.Internal: false, 999: false,
		stream.WrongNode: true, stream.PodNotFound: true, stream.NamespaceGone: true, stream.AgentOffline: true,
	} {
		r, m, _, _, _ := moved(t)
		w := &way{srv: r.s, flow: &flow{}}
		w.flow.at.Store(&oldPlace)
		if w.misplaced(code) != again || (len(m.forgotten) == 1) != again || w.misplaced(code) {
			t.Errorf("%s: forgotten %v", code, m.forgotten)
		}
	}
	r, m, client, _, b := moved(t)
	m.places[0].Node = "node-z"
	c := client.ask("shop", "web")
	right, _ := b.accept()
	refuse(right, stream.NotListening)
	if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.NotListening {
		t.Errorf("client reads %+v, %v", reply, err)
	}
	_, _ = c.Close(), right.Close()

	// A client that knows the pod's UID better than the relay.
	m.mu.Lock()
	m.places = []Place{oldPlace, newPlace}
	m.mu.Unlock()
	c = client.open(&stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: "shop", Pod: "web", UID: "uid-2", Port: 80})
	right, _ = b.accept()
	refuse(right, stream.NotListening)
	_, _ = stream.ReadReply(c)
	_, _ = c.Close(), right.Close()
	r.quiet(client, b)
}

// Whatever the refused agent does afterwards, and however long the search takes,
// the stream lives.
func TestRefuserIsNotHeardAnyMore(t *testing.T) {
	for name, act := range map[string]func(a *link, st *tunnel.Stream){
		"resets": func(_ *link, st *tunnel.Stream) { _ = st.Reset() },
		"leaves": func(a *link, _ *tunnel.Stream) { _ = a.far.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r, m, client, a, b := moved(t)
			m.wait = make(chan struct{})
			c := client.ask("shop", "web")
			write(t, c, data("early"))
			wrong, _ := a.accept()
			if got := next(wrong); got != "early" {
				t.Fatal(got)
			}
			answer(t, wrong, stream.WrongNode, "")
			eventually(t, "the place is forgotten", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.forgotten) == 1 })
			act(a, wrong)
			if name == "leaves" {
				<-a.near.Done()
			} else {
				a.roundTrip()
			}
			write(t, c, data("more"))
			client.roundTrip()
			close(m.wait)
			right, _ := b.accept()
			answer(t, right, stream.OK, "")
			if s := next(right) + " " + next(right); s != "early more" {
				t.Errorf("the second reads %q", s)
			}
			if reply, err := stream.ReadReply(c); err != nil || reply.Code != stream.OK {
				t.Fatalf("client reads %+v, %v", reply, err)
			}
			sibling(t, pair{c, right})
			if code := r.verdict(1); code != "ok" {
				t.Errorf("logged as %s", code)
			}
			r.quiet(client, b)
		})
	}
}

// A client that leaves during the search is not kept waiting for, and nothing is
// left at the second agent.
func TestClientLeavesDuringTheSearch(t *testing.T) {
	r, m, client, a, b := moved(t)
	m.wait = make(chan struct{})
	c := client.ask("shop", "web")
	wrong, _ := a.accept()
	refuse(wrong, stream.WrongNode)
	eventually(t, "the place is forgotten", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.forgotten) == 1 })
	write(t, c, stream.AppendReset(nil, stream.Canceled, ""))
	_ = c.Close()
	client.roundTrip()
	close(m.wait)
	if code := r.verdict(1); code != "canceled" {
		t.Errorf("logged as %s", code)
	}
	st, err := b.far.Accept(within(t))
	if err == nil {
		_, err = st.Read(make([]byte, 1<<10))
		for err == nil {
			_, err = st.Read(make([]byte, 1<<10))
		}
		_ = st.Close()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second agent hears nothing: %v", err)
	}
	r.quiet(client, a, b)
}
