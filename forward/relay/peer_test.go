package relay

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestWhoMayOpenWhat(t *testing.T) {
	ok := stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: "shop", Pod: "web", Port: 80}
	for name, tc := range map[string]struct {
		role Role
		open func(o *stream.Open)
		code stream.Code
	}{
		"node":             {RoleNode, nil, stream.Unsupported},
		"joiner":           {RoleJoiner, nil, stream.Unsupported},
		"unknown pod":      {RoleUser, func(o *stream.Open) { o.Pod = "nobody" }, stream.PodNotFound},
		"no pod":           {RoleUser, func(o *stream.Open) { o.Pod = "" }, stream.Malformed},
		"no namespace":     {RoleUser, func(o *stream.Open) { o.Namespace = "" }, stream.Malformed},
		"another uid":      {RoleUser, func(o *stream.Open) { o.UID = "uid-0" }, stream.PodNotFound},
		"node went away":   {RoleUser, func(o *stream.Open) { o.Pod = "orphan" }, stream.AgentOffline},
		"authorizer says":  {RoleUser, func(o *stream.Open) { o.Port = 22 }, stream.Forbidden},
		"authorizer fails": {RoleUser, func(o *stream.Open) { o.Port = 23 }, stream.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Authorize: gate{}, Locate: nil})
			_, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			r.s.cfg.Locate = withOrphan{r.s.nodes}
			l := r.connect(Identity{Role: tc.role, Name: "somebody"}, tunnel.Config{})
			o := ok
			if tc.open != nil {
				tc.open(&o)
			}
			st := l.open(&o)
			reply, err := stream.ReadReply(st)
			if err != nil || reply.Code != tc.code {
				t.Errorf("reply %+v, %v; want %s", reply, err, tc.code)
			}
			if strings.Contains(reply.Text, "/secret") {
				t.Errorf("the peer is told %q", reply.Text)
			}
			_ = st.Close()
			r.quiet(l)
		})
	}
}

type gate struct{}

func (gate) Authorize(_ context.Context, _ Identity, t Target) error {
	switch t.Port {
	case 22:
		return &stream.Error{Code: stream.Forbidden, Text: "no ssh"}
	case 23:
		return errors.New("read /secret/path: no such file")
	}
	return nil
}

type withOrphan struct{ Locator }

func (l withOrphan) Locate(ctx context.Context, who Identity, t Target) (Place, error) {
	if t.Pod == "orphan" {
		return Place{Node: "node-z", UID: "uid-z"}, nil
	}
	return l.Locator.Locate(ctx, who, t)
}

// What comes instead of an Open ends its stream only.
func TestHostileOpen(t *testing.T) {
	for name, tc := range map[string]struct {
		send string
		want string
	}{
		"noise":              {"GET / HTTP/1.1\r\n\r\n", "refused"},
		"a length too large": {"\x01\x01\xff\xff", "refused"},
		"a kind unknown":     {"\x01\x09\x00\x12" + strings.Repeat("\x00", 18), "refused"},
		"nothing":            {"", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			l := r.client()
			st, err := l.far.Open(within(t))
			if err != nil {
				t.Fatal(err)
			}
			write(t, st, []byte(tc.send))
			_ = st.CloseWrite()
			if reply, err := stream.ReadReply(st); err != nil || reply.Code == stream.OK {
				t.Errorf("reply %+v, %v", reply, err)
			}
			_ = st.Close()
			r.quiet(l)
			if l.near.Err() != nil {
				t.Errorf("the session ended: %v", l.near.Err())
			}
		})
	}
}

func TestSlowOpen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{OpenTimeout: time.Second})
		l := r.client()
		st, err := l.far.Open(within(t))
		if err != nil {
			t.Fatal(err)
		}
		write(t, st, []byte{1})
		if reply, err := stream.ReadReply(st); err != nil || reply.Code != stream.Timeout {
			t.Errorf("reply %+v, %v", reply, err)
		}
		_ = st.Close()
		r.quiet(l)
		r.hangUp(l)
	})
}

func TestControlStreamsAreFew(t *testing.T) {
	r := newRig(t, Config{})
	r.control()
	l := r.client()
	var sts []*tunnel.Stream
	for range maxControls {
		st := l.open(&stream.Open{Kind: stream.KindControl, ID: stream.NewID()})
		sts = append(sts, st)
	}
	eventually(t, "all are there", func() bool { return l.peer.controls.Load() == maxControls })
	st := l.open(&stream.Open{Kind: stream.KindControl, ID: stream.NewID()})
	<-st.Gone()
	_ = st.Close()
	for _, st := range sts {
		_ = st.Close()
	}
	eventually(t, "they are counted out", func() bool { return l.peer.controls.Load() == 0 })
	r.quiet(l)
}

// An agent that does not register, and a joiner that stays, lose their session.
func TestSilentAgentsAreCut(t *testing.T) {
	for _, role := range []Role{RoleNode, RoleJoiner} {
		t.Run(role.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, Config{OpenTimeout: 10 * time.Second})
				l := r.connect(Identity{Role: role, Name: "node-a"}, tunnel.Config{})
				began := time.Now()
				<-l.far.Done()
				if took := time.Since(began); took < 20*time.Second || took > 23*time.Second {
					t.Errorf("cut after %s", took)
				}
				r.hangUp(l)
			})
		})
	}
}

// Who may not be here any more loses the session and what runs on it. A fault
// of the relay refuses new streams and cuts nothing.
func TestRevalidation(t *testing.T) {
	revoked := func(name string) func(Identity) error {
		return func(who Identity) error {
			if who.Name == name {
				return &stream.Error{Code: stream.Unauthenticated, Text: "forgotten"}
			}
			return nil
		}
	}
	for name, tc := range map[string]struct {
		client, agent string
		clientGone    bool
		nodeGone      bool
		nextStream    stream.Code
		again         func(Identity) error
	}{
		"user": {client: "reset(unauthenticated)", agent: "reset(unauthenticated)", clientGone: true, again: revoked("alice")},
		"node": {client: "reset(unreachable)", agent: "lost", nodeGone: true, again: revoked("node-a")},
		"fault": {
			nextStream: stream.Internal,
			again:      func(Identity) error { return errors.New("read /secret: i/o error") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, Config{RevalidateEvery: 30 * time.Second})
				client := r.client()
				node, tun := r.node("node-a")
				r.report(tun, "shop/web=uid-1")
				p := r.forward(client, node)
				time.Sleep(10*time.Minute + 15*time.Second) // between two looks
				r.judge.set(tc.again)
				time.Sleep(16 * time.Second)
				if tc.nextStream != 0 {
					st := client.ask("shop", "web")
					if reply, err := stream.ReadReply(st); err != nil || reply.Code != tc.nextStream || reply.Text != "" {
						t.Errorf("reply %+v, %v", reply, err)
					}
					_ = st.Close()
					r.judge.set(nil)
					sibling(t, p)
					r.quiet(client, node)
				} else {
					if got := strings.TrimSuffix(rest(t, p.client), " lost"); got != tc.client {
						t.Errorf("client sees %q", got)
					}
					if got := rest(t, p.agent); got != tc.agent {
						t.Errorf("agent sees %q", got)
					}
				}
				time.Sleep(5 * time.Second)
				if (client.far.Err() != nil) != tc.clientGone || (node.far.Err() != nil) != tc.nodeGone {
					t.Errorf("sessions: client %v, node %v", client.far.Err(), node.far.Err())
				}
				_ = p.client.Close()
				_ = p.agent.Close()
				r.hangUp(client, node)
			})
		})
	}
}

// A token that was replaced opens no further stream, at once.
func TestRevokedUserOpensNothing(t *testing.T) {
	r := newRig(t, Config{})
	client := r.client()
	_, tun := r.node("node-a")
	r.report(tun, "shop/web=uid-1")
	r.judge.set(func(Identity) error { return &stream.Error{Code: stream.Unauthenticated, Text: "token replaced"} })
	st, err := client.far.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	// The session may end before this returns; the answer is there all the same.
	_ = stream.WriteOpen(st, &stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: "shop", Pod: "web", Port: 80})
	if reply, err := stream.ReadReply(st); err != nil || reply.Code != stream.Unauthenticated {
		t.Errorf("reply %+v, %v", reply, err)
	}
	_ = st.Close()
	<-client.far.Done()
}

func TestTextOfKeepsSecrets(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"coded":    {&stream.Error{Code: stream.Policy, Text: "no"}, "no"},
		"wrapped":  {errors.Join(errors.New("/secret"), &stream.Error{Code: stream.Policy, Text: "no"}), "no"},
		"internal": {&stream.Error{Code: stream.Internal, Text: "open /secret"}, ""},
		"plain":    {errors.New("open /secret"), ""},
		"never ok": {&stream.Error{Code: stream.OK, Text: "/secret"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := stream.TextOf(tc.err); got != tc.want {
				t.Errorf("%q", got)
			}
			if got := statusOf(tc.err).Error(); strings.Contains(got, "secret") {
				t.Errorf("status %q", got)
			}
		})
	}
}
