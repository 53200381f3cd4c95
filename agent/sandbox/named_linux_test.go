package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// names returns the names of the listed pods.
func names(pods []Pod) (names []string) {
	for _, p := range pods {
		names = append(names, p.Name)
	}
	return names
}

func TestNamedLists(t *testing.T) {
	dir := t.TempDir()
	netnstest.NewAt(t, filepath.Join(dir, "web"))
	netnstest.NewAt(t, filepath.Join(dir, "cni-0f2e"))
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "leftover"), nil, 0o600),
		os.Mkdir(filepath.Join(dir, "directory"), 0o700),
		os.Symlink("web", filepath.Join(dir, "link")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	n := NewNamed(NamedConfig{Dir: dir})
	if _, err := n.refresh(); err != nil {
		t.Fatal(err)
	}
	pods := n.List()
	if got := names(pods); len(got) != 2 || got[0] != "cni-0f2e" || got[1] != "web" {
		t.Fatalf("listed %v", got)
	}
	for _, p := range pods {
		found, err := n.Lookup(t.Context(), p.UID)
		if err != nil || found != p {
			t.Errorf("lookup: %v, error %v", found, err)
		}
		if p.Namespace != "default" || p.NetNS != filepath.Join(dir, p.Name) || p.HostNetwork || !validUID(p.UID) || p.Created.IsZero() {
			t.Errorf("pod %+v", p)
		}
	}
	if n.Ready() != nil {
		t.Errorf("not ready: %v", n.Ready())
	}
}

func TestNamedBounds(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		netnstest.NewAt(t, filepath.Join(dir, name))
	}
	n := NewNamed(NamedConfig{Dir: dir, MaxPods: 2})
	if _, err := n.refresh(); err != nil || len(n.List()) != 2 || n.Ready() == nil {
		t.Errorf("%d pods, error %v, ready: %v", len(n.List()), err, n.Ready())
	}
}

// TestNamedRebirth makes a name again and again, until the kernel uses the number
// of an earlier namespace's inode again.
func TestNamedRebirth(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces, which needs root")
	}
	path := filepath.Join(t.TempDir(), "web")
	uids, inodes := map[string]bool{}, map[uint64]bool{}
	for reused := false; !reused; {
		if len(uids) == 2000 {
			t.Skip("the kernel uses no number again")
		}
		t.Run("", func(t *testing.T) { // its end is that of the namespace
			netnstest.NewAt(t, path)
			id, err := identify(path)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := identify(path); err != nil || again != id {
				t.Errorf("the same namespace was %v, then %v, error %v", id, again, err)
			}
			if uids[id.uid("web")] {
				t.Errorf("namespace %d has the UID of an earlier one", len(uids))
			}
			reused = inodes[id.ino] || t.Failed()
			uids[id.uid("web")], inodes[id.ino] = true, true
		})
	}
	t.Logf("a number was used again after %d namespaces", len(uids))
}

func TestNamedLookupSeesChangesAtOnce(t *testing.T) {
	dir := t.TempDir()
	n := NewNamed(NamedConfig{Dir: dir})
	ns := netnstest.NewAt(t, filepath.Join(dir, "web"))
	id, err := identify(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	uid := id.uid("web") // nobody has listed it
	if pod, err := n.Lookup(t.Context(), uid); err != nil || pod.Name != "web" {
		t.Errorf("a new name: %v, error %v", pod, err)
	}
	ns.Delete()
	if pod, err := n.Lookup(t.Context(), uid); !errors.Is(err, ErrNotFound) {
		t.Errorf("a name that is gone: %v, error %v", pod, err)
	}
	netnstest.NewAt(t, filepath.Join(dir, "web"))
	if pod, err := n.Lookup(t.Context(), uid); !errors.Is(err, ErrNotFound) {
		t.Errorf("a name made anew: %v, error %v", pod, err)
	}
	if _, err := n.Lookup(t.Context(), "../web"); !errors.Is(err, ErrNotFound) {
		t.Errorf("not a UID: error %v", err)
	}
}

func TestNamedPolls(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not-there-yet")
	n := NewNamed(NamedConfig{Dir: dir})
	netnstest.NewAt(t, filepath.Join(t.TempDir(), "elsewhere")) // skips without root
	var ns *netnstest.NS
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		synctest.Wait()
		if drain(n.Changed()) != 1 || len(n.List()) != 0 || n.Ready() != nil {
			t.Errorf("without a directory: %v, ready: %v", n.List(), n.Ready())
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(namedPoll)
		synctest.Wait()
		if drain(n.Changed()) != 0 {
			t.Error("a signal for nothing")
		}
		ns = netnstest.NewAt(t, filepath.Join(dir, "web"))
		time.Sleep(namedPoll)
		synctest.Wait()
		if drain(n.Changed()) != 1 || len(n.List()) != 1 {
			t.Errorf("after a poll: %v", n.List())
		}
		ns.Delete()
		time.Sleep(namedPoll)
		synctest.Wait()
		if drain(n.Changed()) != 1 || len(n.List()) != 0 {
			t.Errorf("after a removal: %v", n.List())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
}

func TestNamedUnreadable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := NewNamed(NamedConfig{Dir: file})
	if _, err := n.Lookup(t.Context(), "u"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if n.Ready() == nil {
		t.Error("ready without having read the directory")
	}
}
