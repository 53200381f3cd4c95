package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestAwaitPod(t *testing.T) {
	web := &controlv1.Pod{Namespace: "ns", Name: "web"}
	denied := status.Error(codes.PermissionDenied, "not yours")
	for _, tc := range []struct {
		name   string
		pods   func(age time.Duration) ([]*controlv1.Pod, error)
		after  time.Duration
		waited bool
		want   func(error) bool
	}{
		{
			name: "there already",
			pods: func(time.Duration) ([]*controlv1.Pod, error) { return []*controlv1.Pod{web}, nil },
			want: func(err error) bool { return err == nil },
		}, {
			name: "appears",
			pods: func(age time.Duration) ([]*controlv1.Pod, error) {
				if age < 3*time.Second {
					return []*controlv1.Pod{{Namespace: "other", Name: "web"}, {Namespace: "ns", Name: "web-0"}}, nil
				}
				return []*controlv1.Pod{web}, nil
			},
			after: 3 * time.Second, waited: true,
			want: func(err error) bool { return err == nil },
		}, {
			name:  "never appears",
			pods:  func(time.Duration) ([]*controlv1.Pod, error) { return nil, nil },
			after: time.Minute, waited: true,
			want: func(err error) bool { return stream.CodeOf(err) == stream.PodNotFound },
		}, {
			name: "may not look",
			pods: func(time.Duration) ([]*controlv1.Pod, error) { return nil, denied },
			want: func(err error) bool { return errors.Is(err, denied) },
		}, {
			name: "relay restarts",
			pods: func(age time.Duration) ([]*controlv1.Pod, error) {
				if age < time.Second {
					return nil, status.Error(codes.Unavailable, "tunnel lost")
				}
				return []*controlv1.Pod{web}, nil
			},
			after: time.Second,
			want:  func(err error) bool { return err == nil },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeSession()
				began := time.Now()
				f.pods = func() ([]*controlv1.Pod, error) { return tc.pods(time.Since(began)) }
				c, stop := start(t, &script{outcome: func(int, string) (session, error) { return f, nil }}, Config{})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				waited := false
				_, err := c.AwaitPod(ctx, "ns", "web", func() { waited = true })
				if !tc.want(err) {
					t.Errorf("AwaitPod = %v", err)
				}
				if d := time.Since(began); d != tc.after {
					t.Errorf("AwaitPod took %v, want %v", d, tc.after)
				}
				if waited != tc.waited {
					t.Errorf("waiting called: %v", waited)
				}
				stop()
			})
		})
	}
}

func TestAwaitPodWithoutRelayTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := start(t, &script{outcome: refused}, Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.AwaitPod(ctx, "ns", "web", nil)
		if !errors.Is(err, ErrOffline) || err.Error() != "no relay answers: relay relay:7443: connection refused" {
			t.Errorf("AwaitPod = %v", err)
		}
		stop()
	})
}
