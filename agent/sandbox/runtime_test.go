package sandbox

import (
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containers "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func envelope(t testing.TB, topic string, m proto.Message) *types.Envelope {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &types.Envelope{Topic: topic, Event: &anypb.Any{Value: value}}
}

func TestEventOf(t *testing.T) {
	sandbox := map[string]string{labelKind: kindSandbox}
	for _, tc := range []struct {
		topic string
		m     proto.Message
		want  event
	}{
		{"/containers/create", &eventsapi.ContainerCreate{ID: "a"}, event{containerChanged, "a"}},
		{"/containers/update", &eventsapi.ContainerUpdate{ID: "a", Labels: sandbox}, event{containerChanged, "a"}},
		{"/containers/update", &eventsapi.ContainerUpdate{ID: "a"}, event{}},
		{"/containers/delete", &eventsapi.ContainerDelete{ID: "a"}, event{sandboxRemoved, "a"}},
		{"/tasks/start", &eventsapi.TaskStart{ContainerID: "a"}, event{taskStarted, "a"}},
		{"/tasks/exit", &eventsapi.TaskExit{ContainerID: "a", ID: "a"}, event{taskExited, "a"}},
		{"/tasks/exit", &eventsapi.TaskExit{ContainerID: "a", ID: "probe"}, event{}},
		{"/images/create", &eventsapi.ImageCreate{Name: "a"}, event{}},
	} {
		if got, err := eventOf(envelope(t, tc.topic, tc.m)); err != nil || got != tc.want {
			t.Errorf("%s: got %v, error %v; want %v", tc.topic, got, err, tc.want)
		}
	}
	broken := &types.Envelope{Topic: "/tasks/exit", Event: &anypb.Any{Value: []byte{0xff}}}
	if _, err := eventOf(broken); err == nil {
		t.Error("a broken event was read")
	}
}

func FuzzEventOf(f *testing.F) {
	f.Add("/tasks/exit", envelope(f, "", &eventsapi.TaskExit{ContainerID: "a", ID: "a"}).GetEvent().GetValue())
	f.Add("/containers/update", envelope(f, "", &eventsapi.ContainerUpdate{ID: "a"}).GetEvent().GetValue())
	f.Fuzz(func(t *testing.T, topic string, value []byte) {
		e, err := eventOf(&types.Envelope{Topic: topic, Event: &anypb.Any{Value: value}})
		if err != nil && e != (event{}) {
			t.Errorf("an error and an event: %v", e)
		}
	})
}

func TestRecordOf(t *testing.T) {
	made := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	spec := &anypb.Any{Value: []byte(`{"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/x"}]}}`)}
	labels := func(kind, namespace, name, uid string) map[string]string {
		return map[string]string{labelKind: kind, labelNamespace: namespace, labelName: name, labelUID: uid}
	}
	long := string(make([]byte, maxName+1))
	for _, tc := range []struct {
		name   string
		labels map[string]string
		spec   *anypb.Any
		is     bool
		fails  bool
	}{
		{"sandbox", labels(kindSandbox, "shop", "web-0", "u"), spec, true, false},
		{"container", labels("container", "shop", "web-0", "u"), spec, false, false},
		{"no labels", nil, spec, false, false},
		{"no UID", labels(kindSandbox, "shop", "web-0", ""), spec, false, false},
		{"UID that cannot be one", labels(kindSandbox, "shop", "web-0", `u"`), spec, false, false},
		{"name too long", labels(kindSandbox, "shop", long, "u"), spec, true, true},
		{"no namespace", labels(kindSandbox, "", "web-0", "u"), spec, true, true},
		{"no spec", labels(kindSandbox, "shop", "web-0", "u"), nil, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, is := recordOf(&containers.Container{ID: "a", Labels: tc.labels, Spec: tc.spec, CreatedAt: timestamppb.New(made)}, "/host/netns")
			if is != tc.is || (r.err != nil) != tc.fails {
				t.Fatalf("is a sandbox: %v, error %v", is, r.err)
			}
			want := Pod{Namespace: "shop", Name: "web-0", UID: "u", NetNS: "/host/netns/x", Created: made}
			if is && !tc.fails && (r.pod != want || r.id != "a") {
				t.Errorf("got %v, want %v", r.pod, want)
			}
		})
	}
	if _, is := recordOf(nil, ""); is {
		t.Error("nothing is a sandbox")
	}
}
