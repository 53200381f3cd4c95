package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// TestRenewUnderTunnel looks after the credential of one tunnel for a year.
func TestRenewUnderTunnel(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name    string
		due     time.Duration // from now; 0: never
		err     error
		life    time.Duration
		min, mx int64
	}{
		{"never due", 0, nil, 365 * day, 0, 0},
		{"every 60 days", 60 * day, nil, 365 * day, 5, 6},
		{"due at once", -day, nil, time.Minute, 1, 1},
		{"not due yet", day, nil, day - time.Minute, 0, 0},
		{"refused for a day", -day, errors.New("not now"), day, 24, 49},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				id, log := &fixed{err: tt.err}, &journal{}
				a, err := New(Config{Node: "n", Relays: []string{"r:1"}, Pods: local(nil), Identity: id, Log: log.logger()})
				if err != nil {
					t.Fatal(err)
				}
				u := &uplink{agent: a, relay: "r:1", log: a.cfg.Log, shown: Credential{Renew: id.renew}}
				if tt.due != 0 {
					u.shown.RenewAt = time.Now().Add(tt.due)
				}
				ctx, cancel := context.WithTimeout(t.Context(), tt.life)
				defer cancel()
				u.renew(ctx)
				n := id.asked.Load()
				if n < tt.min || n > tt.mx {
					t.Errorf("renewed %d times, want %d to %d", n, tt.min, tt.mx)
				}
				if said := len(log.lines("credential not renewed")); tt.err != nil && said != int(n) {
					t.Errorf("%d complaints for %d failures", said, n)
				}
			})
		})
	}
}

// TestRegistrationRefused does not stay on a tunnel without a registration.
func TestRegistrationRefused(t *testing.T) {
	type call = grpc.BidiStreamingServer[controlv1.AttendRequest, controlv1.AttendResponse]
	for _, tt := range []struct {
		name   string
		attend func(call) error
		want   string
	}{
		{"refused", func(call) error { return status.Error(codes.PermissionDenied, "not your node") }, "not your node"},
		{"no answer", func(c call) error { <-c.Context().Done(); return nil }, errSilent.Error()},
		{"another answer", func(c call) error {
			_ = c.Send(&controlv1.AttendResponse{Kind: &controlv1.AttendResponse_GoingAway{GoingAway: &controlv1.GoingAway{}}})
			<-c.Context().Done()
			return nil
		}, "not a registration"},
		{"ends", func(call) error { return nil }, "register"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := startRelay(t, &relay{attend: tt.attend})
			a := start(t, Config{DialTimeout: 500 * time.Millisecond}, r)
			r.await(t, "it is tried again", func() bool { return len(r.links) > 1 })
			if err := fmt.Sprint(a.log.wait(t, "tunnel ended", 1)[0]["err"]); !strings.Contains(err, tt.want) {
				t.Errorf("log: %s, want %s", err, tt.want)
			}
			if a.Ready() {
				t.Error("ready without a registration")
			}
		})
	}
}

// TestReports keeps the relay up to date.
func TestReports(t *testing.T) { bothWays(t, testReports) }

func testReports(t *testing.T, to way) {
	pods := reachtest.NewPods(pod1)
	r := startRelay(t, &relay{})
	start(t, Config{Pods: to(t, localOf(pods, nil))}, r)
	l := r.tunnel(t, 1)
	has := func(uid string) func() bool {
		return func() bool { return l.full == 1 && len(l.pods) == 1 && l.pods[uid] != nil }
	}
	r.await(t, "the first report", has("uid-1"))
	again := pod1
	again.UID = "uid-2"
	pods.Edit(func() { pods.All = []sandbox.Pod{again} })
	r.await(t, "the change", has("uid-2"))
	if p := l.pods["uid-2"]; p.GetNamespace() != "shop" || p.GetName() != "web-0" || p.GetHostNetwork() {
		t.Errorf("reported %v", p)
	}
}
