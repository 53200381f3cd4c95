package kube

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestAuthorizeAsksForTheRightThing(t *testing.T) {
	a := newAnswers()
	var got []*authorizationv1.ResourceAttributes
	a.rights = func(_ string, what *authorizationv1.ResourceAttributes) bool {
		got = append(got, what)
		return what.Name == "web" || what.Resource == "nodes"
	}
	k := a.ask(t, Config{})
	if err := k.Authorize(t.Context(), user("tok"), web()); err != nil {
		t.Fatal(err)
	}
	err := k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: "db", Port: 5432})
	want := `pods "db" is forbidden: User "ann" cannot create resource "pods/portforward" in API group "" in the namespace "ns"`
	if stream.CodeOf(err) != stream.Forbidden || stream.TextOf(err) != want {
		t.Errorf("%v", err)
	}
	for what, want := range map[relay.Oversight]bool{relay.SeeNodes: true, 9: false} {
		if ok, err := k.Oversees(t.Context(), user("tok"), what); ok != want || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	}
	for _, what := range []relay.Oversight{relay.SeeStreams, relay.StopStreams} {
		if ok, err := k.Oversees(t.Context(), user("tok"), what); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	}
	pods := authorizationv1.ResourceAttributes{Verb: "create", Version: "v1", Resource: "pods", Subresource: "portforward", Namespace: "ns", Name: "web"}
	other := pods
	other.Name = "db"
	nodes := authorizationv1.ResourceAttributes{Verb: "list", Version: "v1", Resource: "nodes"}
	see := authorizationv1.ResourceAttributes{Verb: "list", Group: "culvert.dev", Version: "v1", Resource: "relays", Subresource: "streams"}
	stop := see
	stop.Verb = "delete"
	if !reflect.DeepEqual(got, []*authorizationv1.ResourceAttributes{&pods, &other, &nodes, &see, &stop}) {
		t.Errorf("asked %v", got)
	}
}

func TestNamesThatNoPodHas(t *testing.T) {
	a := newAnswers()
	k := a.ask(t, Config{})
	for _, target := range []relay.Target{
		{}, {Namespace: "ns"}, {Pod: "web"}, {Namespace: "ns", Pod: "../secrets/x"}, {Namespace: "ns/../kube-system", Pod: "web"}, {Namespace: "ns", Pod: ".."},
		{Namespace: "ns", Pod: "web?x=y"}, {Namespace: "ns", Pod: "web%2fexec"}, {Namespace: "ns", Pod: "WEB"}, {Namespace: "ns", Pod: strings.Repeat("x", 254)},
		{Namespace: strings.Repeat("x", 64), Pod: "web"}, {Namespace: "n.s", Pod: "web"}, {Namespace: "ns", Pod: "web\n"},
	} {
		_, err := k.Locate(t.Context(), user("tok"), target)
		if err2 := k.Authorize(t.Context(), user("tok"), target); stream.CodeOf(err) != stream.PodNotFound || stream.CodeOf(err2) != stream.PodNotFound {
			t.Errorf("%+v: %v, %v", target, err, err2)
		}
	}
	if len(a.asked) != 0 {
		t.Errorf("asked %v", a.asked)
	}
}

func TestRightsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		a.users["tok2"] = a.users["tok"]
		allowed := true
		a.rights = func(string, *authorizationv1.ResourceAttributes) bool { return allowed }
		k := a.ask(t, Config{})
		step := func(after time.Duration, token string, port uint16, code stream.Code, asked int) {
			t.Helper()
			time.Sleep(after)
			target := web()
			target.Port = port
			err := k.Authorize(t.Context(), user(token), target)
			if stream.CodeOf(err) != code || a.count("selfsubjectaccessreviews") != asked {
				t.Errorf("%v, asked %d times, want %d", err, a.count("selfsubjectaccessreviews"), asked)
			}
		}
		step(0, "tok", 80, stream.OK, 1)
		step(0, "tok", 81, stream.OK, 1)  // a right is for all ports
		step(0, "tok2", 80, stream.OK, 2) // the same name with another token is not the same
		a.set(func() { allowed = false })
		step(10*time.Second-1, "tok", 80, stream.OK, 2)
		step(1, "tok", 80, stream.Forbidden, 3)
		step(0, "tok2", 80, stream.Forbidden, 4)
		a.set(func() { allowed = true })
		step(2*time.Second-1, "tok", 80, stream.Forbidden, 4)
		step(1, "tok", 80, stream.OK, 5)
		// Away: what is remembered is good for its time and no longer; then nothing is allowed and nothing denied.
		a.set(func() { a.away = true })
		step(9*time.Second, "tok", 80, stream.OK, 5)
		step(time.Second, "tok", 80, stream.Unreachable, 6)
		step(0, "tok", 80, stream.Unreachable, 7)
		a.set(func() { a.away = false })
		step(0, "tok", 80, stream.OK, 8)
		a.set(func() { delete(a.users, "tok") })
		step(10*time.Second, "tok", 80, stream.Unauthenticated, 9)
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		k := a.ask(t, Config{MaxRemembered: 10, CallerRate: 1000, CallerBurst: 1000})
		for i := range 100 {
			name := fmt.Sprintf("web-%d", i)
			a.pods["ns/"+name] = pod(name, "u", "node1")
			target := relay.Target{Namespace: "ns", Pod: name}
			if err := k.Authorize(t.Context(), user("tok"), target); err != nil {
				t.Fatal(err)
			}
			if _, err := k.Locate(t.Context(), user("tok"), target); err != nil {
				t.Fatal(err)
			}
		}
		if k.rights.len() != 10 || k.places.len() != 10 {
			t.Errorf("%d rights and %d places are remembered", k.rights.len(), k.places.len())
		}
	})
}

// One caller who asks for everything waits; another does not.
func TestCallersHaveTheirShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		a.users["tok2"] = a.users["tok"]
		k := a.ask(t, Config{})
		var all sync.WaitGroup
		var mu sync.Mutex
		codes := make(map[stream.Code]int)
		for i := range 500 {
			all.Go(func() {
				err := k.Authorize(t.Context(), user("tok"), relay.Target{Namespace: "ns", Pod: fmt.Sprintf("p%d", i)})
				mu.Lock()
				codes[stream.CodeOf(err)]++
				mu.Unlock()
			})
		}
		synctest.Wait()
		began := time.Now()
		if err := k.Authorize(t.Context(), user("tok2"), web()); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		all.Wait()
		if codes[stream.OK] < 100 || codes[stream.OK] > 111 || codes[stream.OK]+codes[stream.Overloaded] != 500 {
			t.Errorf("%v", codes)
		}
	})
}

func TestLocate(t *testing.T) {
	tests := map[string]struct {
		pod  *corev1.Pod
		cfg  Config
		code stream.Code
		text string
	}{
		"running":   {pod: pod("web", "u1", "node1")},
		"ending":    {pod: pod("web", "u1", "node1", func(p *corev1.Pod) { p.DeletionTimestamp = &p.CreationTimestamp })},
		"unknown":   {code: stream.PodNotFound, text: `pods "web" not found`},
		"pending":   {pod: pod("web", "u1", "node1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), code: stream.Unreachable, text: "pod is not running. Current status=Pending"},
		"no node":   {pod: pod("web", "u1", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), code: stream.Unreachable, text: "not scheduled"},
		"succeeded": {pod: pod("web", "u1", "node1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), code: stream.NamespaceGone, text: "pod is not running. Current status=Succeeded"},
		"failed":    {pod: pod("web", "u1", "node1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), code: stream.NamespaceGone, text: "Current status=Failed"},
		"evicted":   {pod: pod("web", "u1", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), code: stream.NamespaceGone, text: "Current status=Failed"},
		"host":      {pod: pod("web", "u1", "node1", func(p *corev1.Pod) { p.Spec.HostNetwork = true }), code: stream.Policy, text: "node's own network"},
		"host, allowed": {
			pod: pod("web", "u1", "node1", func(p *corev1.Pod) { p.Spec.HostNetwork = true }), cfg: Config{AllowHostNetwork: true},
		},
		"another pod":      {pod: pod("db", "u1", "node1"), code: stream.Unreachable, text: "not the pod"},
		"no UID":           {pod: pod("web", "", "node1"), code: stream.Unreachable, text: "not the pod"},
		"a long UID":       {pod: pod("web", strings.Repeat("u", 129), "node1"), code: stream.Unreachable, text: "not the pod"},
		"a node's no name": {pod: pod("web", "u1", "../node1"), code: stream.Unreachable, text: "not the pod"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := newAnswers()
			if tt.pod != nil {
				a.pods["ns/web"] = tt.pod
			}
			k := a.ask(t, tt.cfg)
			place, err := k.Locate(t.Context(), user("tok"), web())
			if stream.CodeOf(err) != tt.code || !strings.Contains(stream.TextOf(err), tt.text) {
				t.Fatalf("%v, %v", stream.CodeOf(err), err)
			}
			if (place.About == nil) != (tt.code != stream.OK) {
				t.Error("a policy is not told what it needs of the pod")
			}
			place.About = nil
			if want := (relay.Place{Node: "node1", UID: "u1"}); tt.code == stream.OK && place != want || tt.code != stream.OK && place != (relay.Place{}) {
				t.Errorf("%+v", place)
			}
		})
	}
}

func TestPlacesAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		a.users["tok2"] = a.users["tok"]
		a.pods["ns/web"] = pod("web", "u1", "node1")
		k := a.ask(t, Config{})
		step := func(after time.Duration, token, uid string, asked int) {
			t.Helper()
			time.Sleep(after)
			place, err := k.Locate(t.Context(), user(token), web())
			if place.UID != uid || (err == nil) != (uid != "") || a.count("pods") != asked {
				t.Errorf("%+v, %v, asked %d times, want %s, %d", place, err, a.count("pods"), uid, asked)
			}
		}
		step(0, "tok", "u1", 1)
		step(0, "tok2", "u1", 2) // what one may read the other may not
		a.set(func() { a.pods["ns/web"] = pod("web", "u2", "node2") })
		step(5*time.Second-1, "tok", "u1", 2)
		k.Forget(web(), relay.Place{Node: "node1", UID: "u1"})
		step(0, "tok", "u2", 3)
		step(0, "tok2", "u2", 4)
		a.set(func() { delete(a.pods, "ns/web") })
		step(5*time.Second, "tok", "", 5)
		step(0, "tok", "", 6) // that there is none is not remembered
		a.set(func() { a.pods["ns/web"] = pod("web", "u3", "node1") })
		step(0, "tok", "u3", 7)
	})
}
