package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/rpc"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// surveyor is the Node service of an agent.
type surveyor struct {
	controlv1.UnimplementedNodeServer
	pods map[string]string // UID to why not; empty: allowed
	hold chan struct{}     // if not nil, an answer waits for it
}

func (s *surveyor) Describe(ctx context.Context, req *controlv1.DescribeRequest) (*controlv1.DescribeResponse, error) {
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
		}
	}
	reason, ok := s.pods[req.GetUid()]
	if !ok {
		return nil, status.Error(codes.NotFound, "no pod with that uid\x1b[31m")
	}
	return &controlv1.DescribeResponse{Allowed: reason == "" || req.GetPort() == 0, Reason: reason}, nil
}

// answering has a node serve the questions of the relay.
func (r *rig) answering(l *link, s *surveyor) {
	g := rpc.NewServer()
	in := rpc.NewListener()
	controlv1.RegisterNodeServer(g, s)
	r.work.Go(func() { _ = g.Serve(in) })
	r.work.Go(func() {
		_ = l.far.Serve(r.ctx, func(st *tunnel.Stream) {
			if _, err := stream.ReadOpen(st); err == nil {
				_ = in.Deliver(st, nil)
			}
		})
	})
	r.t.Cleanup(g.Stop)
}

func TestCheck(t *testing.T) {
	type step struct {
		name   string
		code   stream.Code
		detail string
	}
	allowed := step{stepAuthorized, stream.OK, "alice"}
	located := step{stepLocated, stream.OK, "node-a"}
	permitted := step{stepRules, stream.OK, "no rule matches"}
	known := step{stepAgent, stream.OK, ""}
	for name, tc := range map[string]struct {
		places []Place
		err    error
		pods   map[string]string
		mute   bool // nobody serves Describe
		port   uint32
		steps  []step
		node   string
	}{
		"good":      {places: []Place{oldPlace}, pods: map[string]string{"uid-1": ""}, port: 80, steps: []step{allowed, located, permitted, known, {stepPolicy, stream.OK, "80"}}, node: "node-a"},
		"no port":   {places: []Place{oldPlace}, pods: map[string]string{"uid-1": "never"}, steps: []step{allowed, located, permitted, known}, node: "node-a"},
		"policy":    {places: []Place{oldPlace}, pods: map[string]string{"uid-1": "not\nport 80"}, port: 80, steps: []step{allowed, located, permitted, known, {stepPolicy, stream.Policy, "not?port 80"}}, node: "node-a"},
		"forbidden": {port: 22, steps: []step{{stepAuthorized, stream.Forbidden, "no ssh"}}},
		"fault":     {port: 23, steps: []step{{stepAuthorized, stream.Internal, "could not find out"}}},
		"no pod":    {err: &stream.Error{Code: stream.PodNotFound, Text: "no such pod"}, port: 80, steps: []step{allowed, {stepLocated, stream.PodNotFound, "no such pod"}}},
		"no answer": {err: errors.New("secret"), port: 80, steps: []step{allowed, {stepLocated, stream.Internal, "could not find out"}}},
		"no agent":  {places: []Place{{Node: "node-z", UID: "u"}}, err: &stream.Error{Code: stream.PodNotFound}, port: 80, steps: []step{allowed, {stepLocated, stream.PodNotFound, ""}}},
		"no agent at last": {
			places: []Place{oldPlace, {Node: "node-z", UID: "u"}}, port: 80,
			steps: []step{allowed, {stepLocated, stream.OK, "node-z"}, permitted, {stepAgent, stream.AgentOffline, "node-z"}}, node: "node-z",
		},
		"unknown there": {
			places: []Place{{Node: "node-a", UID: "uid-8"}, {Node: "node-a", UID: "uid-9"}}, port: 80,
			steps: []step{allowed, located, permitted, {stepAgent, stream.PodNotFound, "no pod with that uid?[31m"}}, node: "node-a",
		},
		"known elsewhere": {
			places: []Place{{Node: "node-z", UID: "u"}, oldPlace}, pods: map[string]string{"uid-1": ""}, port: 80,
			steps: []step{allowed, located, permitted, known, {stepPolicy, stream.OK, ""}}, node: "node-a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{places: tc.places, err: tc.err}
			r := newRig(t, Config{Locate: m, Authorize: gate{}})
			r.control()
			node, tun := r.node("node-a")
			tun.version = "v7"
			r.answering(node, &surveyor{pods: tc.pods})
			v := controlv1.NewViewClient(r.client().calls())
			got, err := v.Check(within(t), &controlv1.CheckRequest{Namespace: "shop", Pod: "web", Port: tc.port})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.GetSteps()) != len(tc.steps) || got.GetNode() != tc.node {
				t.Fatalf("%v, want %v", got, tc.steps)
			}
			for i, s := range got.GetSteps() {
				if want := tc.steps[i]; s.GetName() != want.name || s.GetCode() != uint32(want.code) || !strings.Contains(s.GetDetail(), want.detail) || strings.Contains(s.GetDetail(), "secret") {
					t.Errorf("step %v, want %v", s, want)
				}
			}
			if (got.GetAgentVersion() == "v7") != (tc.node == "node-a") {
				t.Errorf("agent version %q", got.GetAgentVersion())
			}
			if len(r.log.all(t, "stream")) != 0 {
				t.Error("a check is logged as a stream")
			}
		})
	}
}

func TestCheckIsBounded(t *testing.T) {
	r := newRig(t, Config{Locate: &memory{places: []Place{oldPlace}}, OpenTimeout: 200 * time.Millisecond})
	r.control()
	node, _ := r.node("node-a")
	hold := make(chan struct{})
	defer close(hold)
	r.answering(node, &surveyor{hold: hold})
	v := controlv1.NewViewClient(r.client().calls())
	got, err := v.Check(within(t), &controlv1.CheckRequest{Namespace: "shop", Pod: "web", Port: 80})
	if n := len(got.GetSteps()); err != nil || n != 4 || got.GetSteps()[3].GetCode() != uint32(stream.Timeout) {
		t.Errorf("%v, %v", got, err)
	}
	for name, req := range map[string]*controlv1.CheckRequest{
		"no pod": {Namespace: "shop"}, "no namespace": {Pod: "web"}, "port": {Namespace: "shop", Pod: "web", Port: 65616},
		"long": {Namespace: strings.Repeat("x", 64), Pod: "web"}, "unsafe": {Namespace: "shop", Pod: "web\x1b"},
	} {
		if _, err := v.Check(within(t), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// admin is the only overseer.
type admin struct{}

func (admin) Oversees(_ context.Context, who Identity, _ Oversight) (bool, error) {
	if who.Name == "nobody" {
		return false, fmt.Errorf("ask /secret: %w", context.DeadlineExceeded)
	}
	return who.Name == "admin", nil
}

func TestUsersSeeTheirOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes, streams, pods int
		located              bool // by somebody else
		code                 codes.Code
	}{
		"admin":                 {nodes: 1, streams: 2, pods: 1},
		"alice":                 {nodes: 0, streams: 1, pods: 1},
		"mallory":               {nodes: 0, streams: 0, pods: 1},
		"admin of a cluster":    {nodes: 1, streams: 2, pods: 1, located: true},
		"alice in a cluster":    {nodes: 0, streams: 1, located: true},
		"nobody":                {code: codes.DeadlineExceeded},
		"nobody in the cluster": {code: codes.DeadlineExceeded, located: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Oversee: admin{}}
			if tc.located {
				cfg.Locate = &memory{places: []Place{oldPlace}}
			}
			r := newRig(t, cfg)
			r.control()
			node, tun := r.node("node-a")
			r.report(tun, "shop/web=uid-1")
			alice := r.client()
			_ = r.forward(alice, node)
			_ = r.forward(r.connect(Identity{Role: RoleUser, Name: "bob"}, tunnel.Config{}), node)
			me, _, _ := strings.Cut(name, " ")
			v := controlv1.NewViewClient(r.connect(Identity{Role: RoleUser, Name: me}, tunnel.Config{}).calls())
			nodes, err := v.ListNodes(within(t), &controlv1.ListNodesRequest{})
			if status.Code(err) != tc.code || strings.Contains(status.Convert(err).Message(), "secret") || len(nodes.GetNodes()) != tc.nodes {
				t.Errorf("nodes: %v, %v", nodes, err)
			}
			streams, err := v.ListStreams(within(t), &controlv1.ListStreamsRequest{})
			if status.Code(err) != tc.code || len(streams.GetStreams()) != tc.streams {
				t.Errorf("streams: %v, %v", streams, err)
			}
			for _, s := range streams.GetStreams() {
				if me != "admin" && s.GetUser() != me {
					t.Errorf("%s is shown %v", me, s)
				}
			}
			if me == "nobody" && !tc.located {
				return // he may see pods all the same
			}
			pods, err := v.ListPods(within(t), &controlv1.ListPodsRequest{})
			if status.Code(err) != tc.code || len(pods.GetPods()) != tc.pods {
				t.Errorf("pods: %v, %v", pods, err)
			}
		})
	}
}
