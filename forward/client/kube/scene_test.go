package kube

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// noon is when the tests take place.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// made returns a pod of an age, in a state written in letters: R runs, r is ready,
// d is being deleted, P is pending.
func made(name, state string, age time.Duration) pod {
	p := pod{uid: types.UID("uid-" + name), name: name, phase: corev1.PodRunning, created: noon().Add(-age), runs: noon().Add(-age)}
	for _, letter := range state {
		switch letter {
		case 'r':
			p.ready, p.readySince = true, p.created
		case 'd':
			p.deleting = true
		case 'P':
			p.phase = corev1.PodPending
		}
	}
	return p
}

// at settles a scene some time after noon and returns the name of the pod.
func (s *scene) at(after time.Duration) (string, time.Duration) {
	p, wake := s.settle(noon().Add(after))
	in := time.Duration(0)
	if !wake.IsZero() {
		in = wake.Sub(noon().Add(after))
	}
	if p == nil {
		return "", in
	}
	return p.name, in
}

func sceneOf(pods ...pod) *scene {
	s := new(scene)
	s.reset(pods, noon())
	return s
}

func TestFirstChoiceIsKubectls(t *testing.T) {
	restarts := made("b", "Rr", time.Hour)
	restarts.restarts = 3
	for name, tc := range map[string]struct {
		pods []pod
		want string
	}{
		"none":                   {nil, ""},
		"pending":                {[]pod{made("a", "P", time.Hour)}, ""},
		"ready before running":   {[]pod{made("a", "R", time.Hour), made("b", "Rr", time.Minute)}, "b"},
		"ready for longest":      {[]pod{made("a", "Rr", time.Minute), made("b", "Rr", time.Hour)}, "b"},
		"fewer restarts":         {[]pod{restarts, made("c", "Rr", time.Hour)}, "c"},
		"by name at the end":     {[]pod{made("d", "Rr", time.Hour), made("c", "Rr", time.Hour)}, "c"},
		"not one that is going":  {[]pod{made("a", "Rrd", time.Hour), made("b", "Rr", time.Minute)}, "b"},
		"nothing but going":      {[]pod{made("a", "Rrd", time.Hour)}, ""},
		"stuck for a long time":  {[]pod{made("a", "R", time.Hour), made("b", "P", time.Hour)}, "a"},
		"just started, unready":  {[]pod{made("a", "R", time.Second)}, ""},
		"started, clock is fast": {[]pod{made("a", "R", -time.Hour)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := sceneOf(tc.pods...).at(0); got != tc.want {
				t.Errorf("chose %q, want %q", got, tc.want)
			}
		})
	}
}

func TestUnreadyPodIsUsedAfterItsGrace(t *testing.T) {
	s := sceneOf(made("a", "R", time.Second))
	if got, in := s.at(0); got != "" || in != readyGrace-time.Second {
		t.Errorf("%q, again in %v", got, in)
	}
	if got, _ := s.at(readyGrace - time.Second); got != "a" {
		t.Errorf("after its grace: %q", got)
	}
	// Once in use it stays until a better one has been there for a while.
	s.put(made("b", "Rr", 0), noon().Add(time.Minute))
	if got, in := s.at(time.Minute); got != "b" || in != 0 {
		t.Errorf("%q, again in %v", got, in)
	}
}

func TestOnePodIsTakenAsItIs(t *testing.T) {
	s := sceneOf(made("a", "R", 0))
	s.single = true
	if got, _ := s.at(0); got != "a" {
		t.Errorf("%q", got)
	}
}

func TestStaysWithThePodInUse(t *testing.T) {
	s := sceneOf(made("a", "Rr", time.Hour), made("b", "Rr", time.Minute))
	s.at(0)
	older := made("c", "Rr", 2*time.Hour)
	s.put(older, noon())
	if got, _ := s.at(time.Second); got != "a" {
		t.Errorf("moved to %q for no reason", got)
	}

	// A failed probe is waited out, and then not.
	unready := made("a", "R", time.Hour)
	s.put(unready, noon())
	got, in := s.at(time.Minute)
	if got != "a" || in != unreadyFor {
		t.Errorf("%q, again in %v", got, in)
	}
	s.put(made("a", "Rr", time.Hour), noon())
	if got, in := s.at(time.Minute + unreadyFor - 1); got != "a" || in != 0 {
		t.Errorf("ready again: %q, again in %v", got, in)
	}
	s.put(unready, noon())
	s.at(2 * time.Minute)
	if got, in := s.at(2*time.Minute + unreadyFor - 1); got != "a" || in != 1 {
		t.Errorf("%q, again in %v", got, in)
	}
	// The youngest takes over: it is the one that a rollout leaves.
	if got, _ := s.at(2*time.Minute + unreadyFor); got != "b" {
		t.Errorf("%q, want the youngest", got)
	}
}

func TestMovesWhenThePodGoes(t *testing.T) {
	s := sceneOf(made("a", "Rr", time.Hour))
	s.at(0)
	s.put(made("a", "Rrd", time.Hour), noon())
	if got, _ := s.at(0); got != "a" {
		t.Errorf("%q: the last one serves while it can", got)
	}
	s.put(made("b", "P", 0), noon())
	if got, _ := s.at(0); got != "a" {
		t.Errorf("%q: the next one is not ready", got)
	}
	s.put(made("b", "Rr", 0), noon())
	if got, _ := s.at(0); got != "b" {
		t.Errorf("%q: the next one is ready", got)
	}
	s.drop("uid-b")
	s.drop("uid-a")
	if got, in := s.at(0); got != "" || in != 0 {
		t.Errorf("%q, again in %v", got, in)
	}
}

func TestRefusedPodIsLeftAlone(t *testing.T) {
	s := sceneOf(made("a", "Rr", time.Hour), made("b", "Rr", time.Minute))
	s.at(0)
	s.refuse("a", noon())
	if got, _ := s.at(0); got != "b" {
		t.Errorf("%q", got)
	}
	s.refuse("b", noon().Add(time.Millisecond))
	if got, in := s.at(time.Millisecond); got != "" || in != refusedFor-time.Millisecond {
		t.Errorf("%q, again in %v", got, in)
	}
	if got, _ := s.at(refusedFor); got != "a" {
		t.Errorf("%q after a moment", got)
	}

	// An unready pod that was in use needs no grace to be used again.
	s = sceneOf(made("a", "R", time.Hour))
	s.at(0)
	s.reset([]pod{made("a", "R", 0)}, noon())
	s.refuse("a", noon())
	s.at(0)
	if got, _ := s.at(refusedFor); got != "a" {
		t.Errorf("%q", got)
	}
	// A pod that is born again under its name is another one.
	born := made("a", "Rr", 0)
	born.uid = "another"
	s.refuse("a", noon().Add(time.Hour))
	s.reset([]pod{born}, noon().Add(time.Hour))
	if got, _ := s.at(time.Hour); got != "a" || len(s.refused) != 0 {
		t.Errorf("%q, refused %v", got, s.refused)
	}
}

func TestSceneIsBounded(t *testing.T) {
	s := sceneOf()
	for i := range 2 * maxPods {
		p := made("a", "Rr", 0)
		p.uid = types.UID(time.Duration(i).String())
		s.put(p, noon())
	}
	if len(s.pods) != maxPods {
		t.Errorf("%d pods kept", len(s.pods))
	}
	if text := s.states(noon()); len(text) > 200 {
		t.Errorf("a text of %d bytes", len(text))
	}
}
