package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// TestQuestions asks an agent over its tunnel.
func TestQuestions(t *testing.T) { bothWays(t, testQuestions) }

func testQuestions(t *testing.T, to way) {
	host := sandbox.Pod{Namespace: "infra", Name: "host", UID: "uid-h", HostNetwork: true}
	pods := reachtest.NewPods(pod1, host)
	r := startRelay(t, &relay{})
	start(t, Config{Pods: to(t, localOf(pods, nil))}, r)
	l := r.tunnel(t, 1)
	r.await(t, "the pods are known", func() bool { return len(l.pods) == 2 })
	cc, err := connect.Control(l.sess)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	node := controlv1.NewNodeClient(cc)
	ctx := t.Context()

	for namespace, want := range map[string]int{"": 2, "shop": 1, "none": 0} {
		got, err := node.ListPods(ctx, &controlv1.ListPodsRequest{Namespace: namespace})
		if err != nil || len(got.GetPods()) != want {
			t.Errorf("pods of %q: %v, %v", namespace, got, err)
		}
	}
	for _, tt := range []struct {
		uid     string
		port    uint32
		allowed bool
		code    codes.Code
	}{
		{"uid-1", 80, true, codes.OK},
		{"uid-1", 0, true, codes.OK},
		{"uid-h", 80, false, codes.OK},
		{"uid-1", 65536, false, codes.InvalidArgument},
		{"uid-9", 80, false, codes.NotFound},
	} {
		got, err := node.Describe(ctx, &controlv1.DescribeRequest{Uid: tt.uid, Port: tt.port})
		if status.Code(err) != tt.code || got.GetAllowed() != tt.allowed || (got.GetReason() == "") != (tt.allowed || err != nil) {
			t.Errorf("describe %s:%d: %v, %v", tt.uid, tt.port, got, err)
		}
	}
	pods.Edit(func() { pods.LookupErr = fmt.Errorf("%w: dial /run/secret", sandbox.ErrUnavailable) })
	_, err = node.Describe(ctx, &controlv1.DescribeRequest{Uid: "uid-1"})
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("describe with the runtime away: %v", err)
	}
}

// sent keeps the reports.
type sent struct {
	all []*controlv1.PodChanges
	err error
}

func (s *sent) Send(m *controlv1.AttendRequest) error {
	s.all = append(s.all, m.GetPods())
	return s.err
}

// TestReported sends what changed, whole at first, in pieces.
func TestReported(t *testing.T) {
	many := func(n int) (pods []sandbox.Pod) {
		for i := range n {
			pods = append(pods, sandbox.Pod{UID: fmt.Sprint(i)})
		}
		return pods
	}
	type piece struct {
		full            bool
		upsert, removed int
	}
	for _, tt := range []struct {
		name   string
		before []sandbox.Pod // nil: this is the first report
		now    []sandbox.Pod
		want   []piece
	}{
		{"first, empty", nil, nil, []piece{{true, 0, 0}}},
		{"first", nil, many(3), []piece{{true, 3, 0}}},
		{"first, one piece exactly", nil, many(podBatch), []piece{{true, podBatch, 0}}},
		{"first, more", nil, many(2*podBatch + 1), []piece{{true, podBatch, 0}, {false, podBatch, 0}, {false, 1, 0}}},
		{"no change", many(3), many(3), nil},
		{"added", many(3), many(5), []piece{{false, 2, 0}}},
		{"removed", many(5), many(3), []piece{{false, 0, 2}}},
		{"all removed", many(podBatch + 2), []sandbox.Pod{}, []piece{{false, 0, podBatch}, {false, 0, 2}}},
		{"changed", many(2), []sandbox.Pod{{UID: "0", Name: "x"}, {UID: "2"}}, []piece{{false, 2, 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &sent{}
			r := reported{call: s}
			if tt.before != nil {
				if err := r.update(tt.before); err != nil {
					t.Fatal(err)
				}
				s.all = nil
			}
			if err := r.update(tt.now); err != nil {
				t.Fatal(err)
			}
			var got []piece
			for _, c := range s.all {
				got = append(got, piece{c.GetFull(), len(c.GetUpsert()), len(c.GetRemoved())})
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("sent %v, want %v", got, tt.want)
			}
		})
	}
	gone := errors.New("gone")
	if err := (&reported{call: &sent{err: gone}}).update(many(1)); !errors.Is(err, gone) {
		t.Errorf("update: %v", err)
	}
}

func TestConfig(t *testing.T) {
	good := Config{Node: "n", Relays: []string{"a:1", "b:1"}, Pods: local(nil), Identity: &fixed{}}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no node":     func(c *Config) { c.Node = "" },
		"no relay":    func(c *Config) { c.Relays = nil },
		"relay twice": func(c *Config) { c.Relays = []string{"a:1", "b:1", "a:1"} },
		"no pods":     func(c *Config) { c.Pods = nil },
		"no identity": func(c *Config) { c.Identity = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
