package client

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// has is a relay of some with streams.
func has(id string, relays uint32, streams ...string) maker {
	return func() *fakeSession {
		s := replica(id, relays, nil)()
		s.streams = streams
		return s
	}
}

// All relays are asked that can be found, and those that cannot be are counted.
func TestOverview(t *testing.T) {
	for name, tt := range map[string]struct {
		sessions []maker
		want     string
		missing  int
	}{
		"one":                {[]maker{has("a", 1, "s1")}, "a:s1", 0},
		"nobody says":        {[]maker{has("a", 0, "s1")}, "a:s1", 0},
		"three":              {[]maker{has("a", 3, "s1"), has("b", 3), has("a", 3), has("c", 3, "s2", "s3")}, "a:s1 b: c:s2,s3", 0},
		"one cannot be":      {[]maker{has("a", 2, "s1")}, "a:s1", 1},
		"told by the second": {[]maker{has("a", 2, "s1"), has("b", 3, "s2")}, "a:s1 b:s2", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, stop := start(t, &script{outcome: func(n int, _ string) (session, error) {
					return tt.sessions[min(n, len(tt.sessions)-1)](), nil
				}}, Config{Relays: []Relay{{Addr: "10.0.0.1:7443"}}})
				defer stop()
				o, err := c.Overview(t.Context(), &controlv1.ListStreamsRequest{})
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, r := range o.Relays {
					var ids []string
					for _, s := range r.Streams {
						ids = append(ids, s.GetId())
					}
					got = append(got, r.ID+":"+strings.Join(ids, ","))
				}
				if strings.Join(got, " ") != tt.want || o.Missing != tt.missing {
					t.Errorf("%q and %d missing, want %q and %d", got, o.Missing, tt.want, tt.missing)
				}
			})
		})
	}
}

// Who looks again and again, as culvert top, does not dial as often for relays that
// cannot be found, until there may be another one; who needs one for a stream does.
func TestOverviewIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		c, stop := start(t, &script{outcome: func(int, string) (session, error) {
			dials.Add(1)
			return has("a", 3, "s1")(), nil
		}}, Config{Relays: []Relay{{Addr: "10.0.0.1:7443"}, {Addr: "10.0.0.2:7443"}}})
		defer stop()
		top := func(d time.Duration) (looks int) {
			before := dials.Load()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Second) {
				if o, err := c.Overview(t.Context(), &controlv1.ListStreamsRequest{}); err != nil || o.Missing != 2 {
					t.Fatalf("%+v, %v", o, err)
				}
			}
			return int(dials.Load()-before) / maxLooks
		}
		if n := top(10 * time.Minute); n < 10 || n > 15 {
			t.Errorf("%d looks in ten minutes", n)
		}
		time.Sleep(vainPause)
		if l := c.another(t.Context(), map[string]bool{"a": true}, false); l != nil {
			t.Error("found one")
		}
		before := dials.Load()
		time.Sleep(vainPause)
		_ = c.another(t.Context(), map[string]bool{"a": true}, false)
		if dials.Load() != before+maxLooks {
			t.Error("a stream has to wait")
		}
		c.hope()
		if n := top(20 * time.Second); n < 2 {
			t.Errorf("%d looks after a change", n)
		}
	})
}

// A stream is stopped wherever it is; who stops it nowhere hears why.
func TestStopStream(t *testing.T) {
	for name, tt := range map[string]struct {
		sessions []maker
		code     codes.Code
		missing  bool
	}{
		"at the first":      {[]maker{has("a", 2, "s1")}, codes.OK, false},
		"at the second":     {[]maker{has("a", 2), has("b", 2, "s1")}, codes.OK, false},
		"nowhere":           {[]maker{has("a", 2), has("b", 2)}, codes.NotFound, false},
		"perhaps elsewhere": {[]maker{has("a", 2)}, codes.NotFound, true},
		"may not":           {[]maker{has("a", 1, "deny")}, codes.PermissionDenied, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, stop := start(t, &script{outcome: func(n int, _ string) (session, error) {
					return tt.sessions[min(n, len(tt.sessions)-1)](), nil
				}}, Config{Relays: []Relay{{Addr: "10.0.0.1:7443"}}})
				defer stop()
				s, err := c.StopStream(t.Context(), "s1")
				var call *callError
				switch {
				case tt.code == codes.OK && (err != nil || s.GetId() != "s1"):
					t.Errorf("%v, %v", s, err)
				case tt.code != codes.OK && (!errors.As(err, &call) || status.Code(call.err) != tt.code):
					t.Errorf("%v, want %s", err, tt.code)
				case tt.missing != (err != nil && strings.Contains(err.Error(), errMissing.Error())):
					t.Errorf("%v", err)
				}
			})
		})
	}
}
