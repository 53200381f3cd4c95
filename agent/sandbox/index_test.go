package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// rec is a sandbox of pod default/name with this UID, made at second made.
func rec(id, name, uid string, made int64) record {
	return record{id: id, pod: Pod{
		Namespace: "default", Name: name, UID: uid, NetNS: "/run/netns/" + id, Created: time.Unix(made, 0).UTC(),
	}}
}

func TestIndexChoosesSandbox(t *testing.T) {
	older, newer := rec("a", "web", "u", 1), rec("b", "web", "u", 2)
	for _, tc := range []struct {
		name             string
		olderIs, newerIs taskState
		want             string
	}{
		{"nothing known", taskUnknown, taskUnknown, "b"},
		{"both run", taskRunning, taskRunning, "b"},
		{"newer does not run", taskRunning, taskGone, "a"},
		{"older is gone", taskGone, taskRunning, "b"},
		{"both are gone", taskGone, taskGone, "b"},
		{"newer is gone, older unknown", taskUnknown, taskGone, "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, order := range [][]record{{older, newer}, {newer, older}} {
				x := newIndex(10)
				for _, r := range order {
					x.put(r)
				}
				x.mark("a", tc.olderIs)
				x.mark("b", tc.newerIs)
				if got, ok := x.lookup("u"); !ok || got.id != tc.want {
					t.Errorf("found %q, want %q", got.id, tc.want)
				}
				if pods := x.list(); len(pods) != 1 || pods[0].NetNS != "/run/netns/"+tc.want {
					t.Errorf("listed %v", pods)
				}
			}
		})
	}
}

func TestIndexForgets(t *testing.T) {
	x := newIndex(10)
	x.put(rec("a", "web-0", "u1", 1))
	x.put(rec("b", "web-0", "u2", 2)) // reborn under the same name
	x.put(rec("c", "web-0", "u2", 3))
	if got := len(x.list()); got != 2 {
		t.Errorf("%d pods, want 2", got)
	}
	if !x.remove("c") || x.remove("c") {
		t.Error("removed twice or not at all")
	}
	if got, _ := x.lookup("u2"); got.id != "b" {
		t.Errorf("found %q, want b", got.id)
	}
	x.remove("a")
	if _, ok := x.lookup("u1"); ok {
		t.Error("found a removed pod")
	}
	x.remove("b")
	if len(x.byID)+len(x.byUID) != 0 {
		t.Errorf("left: %v %v", x.byID, x.byUID)
	}
	if x.mark("a", taskRunning) {
		t.Error("marked a removed sandbox")
	}
}

func TestIndexReplaces(t *testing.T) {
	x := newIndex(10)
	x.put(rec("a", "web", "u", 1))
	x.mark("a", taskGone)
	changed := rec("a", "web", "u", 1)
	changed.pod.NetNS = "/elsewhere"
	x.put(changed)
	x.put(rec("b", "web", "u", 0))
	if got, _ := x.lookup("u"); got.id != "b" {
		t.Error("an update brought a task back to life")
	}
	x.remove("b")
	if got, _ := x.lookup("u"); got.pod.NetNS != "/elsewhere" {
		t.Errorf("after an update: %v", got)
	}
}

func TestIndexIsBounded(t *testing.T) {
	x := newIndex(3)
	for i := range 3 {
		x.put(rec(fmt.Sprint(i), "web", fmt.Sprint(i), 1))
	}
	x.put(rec("1", "web", "1", 1))
	if !x.complete() {
		t.Error("full, but not over")
	}
	x.put(rec("3", "web", "3", 1))
	if x.complete() || len(x.list()) != 3 {
		t.Errorf("complete %v with %d pods", x.complete(), len(x.list()))
	}
}

func TestIndexListsWhatCanBeReached(t *testing.T) {
	x := newIndex(10)
	broken := rec("a", "broken", "u1", 1)
	broken.err = errors.New("no path")
	x.put(broken)
	x.put(rec("b", "zebra", "u2", 1))
	x.put(rec("c", "ant", "u3", 1))
	var names []string
	for _, p := range x.list() {
		names = append(names, p.Name)
	}
	if !slices.Equal(names, []string{"ant", "zebra"}) {
		t.Errorf("listed %v", names)
	}
}

func TestContested(t *testing.T) {
	x := newIndex(10)
	x.put(rec("a", "web", "u1", 1))
	x.put(rec("b", "db", "u2", 1))
	x.put(rec("c", "db", "u2", 2))
	x.mark("c", taskRunning)
	for _, uid := range []string{"", "u2"} {
		got := x.contested(uid)
		slices.Sort(got)
		if !slices.Equal(got, []string{"b", "c"}) {
			t.Errorf("contested of %q: %v", uid, got)
		}
	}
	if got := x.contested("u1"); len(got) != 0 {
		t.Errorf("contested alone: %v", got)
	}
	if x.mark("c", taskRunning) || !x.mark("c", taskGone) {
		t.Error("news that is none, or none that is news")
	}
}

func TestValidUID(t *testing.T) {
	for uid, want := range map[string]bool{
		"0f2e4c1a-9d1b-4a7e-9a57-0123456789ab": true, "d41d8cd98f00b204e9800998ecf8427e": true, "uid_1.x": true,
		"": false, `a"`: false, "a b": false, "a,b": false, "a/b": false, "ü": false, "a\x00": false,
	} {
		if validUID(uid) != want {
			t.Errorf("validUID(%q) is %v", uid, !want)
		}
	}
	if validUID(string(make([]byte, maxUID+1))) {
		t.Error("a UID that is too long is valid")
	}
}
