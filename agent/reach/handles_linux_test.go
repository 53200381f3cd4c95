package reach

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// idOf opens the namespace of a pod and says which it is.
func idOf(t *testing.T, hs *handles, pod sandbox.Pod) netns.ID {
	t.Helper()
	h, done, err := hs.open(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	return h.ID()
}

// TestNamespaceIsTheOneOfNow has a name lead to one namespace, then to another, then to
// nothing, then to our own, faster than anything kept would be closed.
func TestNamespaceIsTheOneOfNow(t *testing.T) {
	first, second := netnstest.New(t), netnstest.New(t)
	path := filepath.Join(t.TempDir(), "pod")
	lead := func(to string) {
		t.Helper()
		_ = os.Remove(path)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	var hs handles
	pod := sandbox.Pod{NetNS: path}
	lead(first.Path())
	one := idOf(t, &hs, pod)
	if again := idOf(t, &hs, pod); again != one || len(hs.kept) != 1 {
		t.Fatalf("%v and %v, %d kept", one, again, len(hs.kept))
	}
	lead(second.Path())
	if other := idOf(t, &hs, pod); other == one {
		t.Fatal("the name leads elsewhere, and the namespace is the one before")
	}
	lead("/proc/self/ns/net")
	if _, _, err := hs.open(pod); !errors.Is(err, netns.ErrHost) {
		t.Fatalf("own namespace: %v", err)
	}
	lead(filepath.Join(t.TempDir(), "nothing"))
	if _, _, err := hs.open(pod); !errors.Is(err, netns.ErrGone) {
		t.Fatalf("no namespace: %v", err)
	}
	untilEmpty(t, &hs)
}

// TestNamespacesAreClosed counts descriptors when nobody dials any more, and with more
// pods than are kept.
func TestNamespacesAreClosed(t *testing.T) {
	links := make(map[string]string)
	for i := range 4 {
		ns, link := netnstest.New(t), filepath.Join(t.TempDir(), strconv.Itoa(i))
		if err := os.Symlink(ns.Path(), link); err != nil {
			t.Fatal(err)
		}
		links[link] = ns.Path()
	}
	before := descriptors(t)
	var hs handles
	var all sync.WaitGroup
	for link, path := range links {
		for range 8 {
			all.Go(func() {
				for range 50 {
					if h, done, err := hs.open(sandbox.Pod{NetNS: link}); err != nil || !h.IsAt(path) {
						t.Error(h, err)
					} else {
						done()
					}
				}
			})
		}
	}
	all.Wait()
	if held := descriptors(t) - before; held > 2*4 {
		t.Errorf("%d descriptors for 4 namespaces", held)
	}
	for i := range 2 * maxKept {
		h, err := netns.OpenHost()
		if err != nil {
			t.Fatal(err)
		}
		hs.release(hs.keep(strconv.Itoa(i), h))
	}
	if held := descriptors(t) - before; held > 2*maxKept {
		t.Errorf("%d descriptors, want %d at most", held, 2*maxKept)
	}
	untilEmpty(t, &hs)
	if held := descriptors(t) - before; held > 0 {
		t.Errorf("%d descriptors are left", held)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// untilEmpty waits until nothing is open.
func untilEmpty(t *testing.T, hs *handles) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		hs.mu.Lock()
		idle := hs.tidy == nil
		hs.mu.Unlock()
		if idle {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("namespaces are still open")
		}
	}
}
