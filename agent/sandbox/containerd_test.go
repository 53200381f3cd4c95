package sandbox

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// follow runs a source over f inside a bubble until the test function ends.
func follow(t *testing.T, f *fake, cfg ContainerdConfig) *Containerd {
	c := NewContainerd(cfg)
	c.connect = f.connect
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	synctest.Wait()
	return c
}

// find looks a pod up and returns the path of its namespace, or the error.
func find(t *testing.T, c *Containerd, uid string) (string, error) {
	p, err := c.Lookup(t.Context(), uid)
	return p.NetNS, err
}

// wantFound checks that a pod is found at the sandbox with this id.
func wantFound(t *testing.T, c *Containerd, uid, id string) {
	t.Helper()
	if got, err := find(t, c, uid); err != nil || got != "/run/netns/"+id {
		t.Errorf("pod %s is at %q, error %v; want sandbox %s", uid, got, err, id)
	}
}

func drain(c <-chan struct{}) (n int) {
	for {
		select {
		case <-c:
			n++
		default:
			return n
		}
	}
}

func TestFollowsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(rec("a", "web-0", "u1", 1), true)
		c := follow(t, f, ContainerdConfig{})
		wantFound(t, c, "u1", "a")
		if n := drain(c.Changed()); n != 1 {
			t.Errorf("%d signals after the first list, want 1", n)
		}
		for _, r := range []record{rec("b", "web-1", "u2", 2), rec("c", "web-2", "u3", 2)} {
			f.add(r, false)
		}
		synctest.Wait()
		if n := drain(c.Changed()); n != 1 || len(c.List()) != 3 {
			t.Errorf("%d signals, %d pods; want one signal for all", n, len(c.List()))
		}
		f.remove("a")
		f.add(rec("d", "web-0", "u4", 3), false) // reborn under the same name
		synctest.Wait()
		wantFound(t, c, "u4", "d")
		if _, err := find(t, c, "u1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a removed pod: error %v", err)
		}
		f.events <- event{taskExited, "a container of a pod"}
		f.events <- event{containerChanged, "gone already"}
		drain(c.Changed())
		synctest.Wait()
		if n := drain(c.Changed()); n != 0 {
			t.Errorf("%d signals for nothing", n)
		}
	})
}

func TestSandboxMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(rec("a", "web", "u", 1), true)
		c := follow(t, f, ContainerdConfig{})
		f.change(func() { // made, not started yet
			f.records["b"] = rec("b", "web", "u", 2)
			f.tasks["b"] = taskGone
		})
		f.events <- event{containerChanged, "b"}
		synctest.Wait()
		wantFound(t, c, "u", "a")
		f.events <- event{taskStarted, "b"}
		synctest.Wait()
		wantFound(t, c, "u", "b")
		f.events <- event{taskExited, "b"}
		synctest.Wait()
		wantFound(t, c, "u", "a")
		f.remove("a")
		synctest.Wait()
		wantFound(t, c, "u", "b") // dead, but what there is
	})
}

// TestLostExit is about a shim that ends before it has sent its last event.
func TestLostExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(rec("a", "web", "u", 1), true)
		f.add(rec("b", "web", "u", 2), true)
		c := follow(t, f, ContainerdConfig{})
		time.Sleep(time.Minute)
		wantFound(t, c, "u", "b")
		drain(c.Changed())
		f.change(func() { f.tasks["b"] = taskUnknown })
		time.Sleep(doubtTime)
		synctest.Wait()
		wantFound(t, c, "u", "b")
		f.change(func() { f.tasks["b"] = taskGone })
		for range 10 { // events do not put the question off
			f.events <- event{taskExited, "other"}
			time.Sleep(doubtTime / 9)
		}
		synctest.Wait()
		wantFound(t, c, "u", "a")
		if drain(c.Changed()) != 1 {
			t.Error("no signal")
		}
	})
}

func TestSecondListAndResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := follow(t, f, ContainerdConfig{Resync: time.Minute})
		f.add(rec("a", "web", "u", 1), true) // its event came before the subscription
		time.Sleep(secondList)
		synctest.Wait()
		if len(c.List()) != 1 || f.lists != 2 {
			t.Errorf("%d pods after %d lists", len(c.List()), f.lists)
		}
		f.change(func() { delete(f.records, "a") })
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(c.List()) != 0 || f.lists != 3 {
			t.Errorf("%d pods after %d lists", len(c.List()), f.lists)
		}
	})
}

func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(rec("a", "web", "u1", 1), true)
		f.add(rec("b", "db", "u2", 1), true)
		c := follow(t, f, ContainerdConfig{})
		if err := c.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		time.Sleep(time.Minute)
		f.breakDown()
		time.Sleep(10 * time.Minute)
		wantFound(t, c, "u1", "a")
		if err := c.Ready(); !errors.Is(err, errDown) {
			t.Errorf("ready while containerd is away: %v", err)
		}
		if _, err := find(t, c, "unknown"); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotFound) {
			t.Errorf("unknown pod while containerd is away: %v", err)
		}
		for i := 1; i < len(f.dials); i++ {
			wait := f.dials[i].Sub(f.dials[i-1])
			// The first wait is from the end of a session, not between attempts.
			if i > 1 && (wait > lastRetry || wait < firstRetry/2 || i > 8 && wait < lastRetry/2) {
				t.Errorf("attempt %d came after %v", i, wait)
			}
		}
		f.change(func() { delete(f.records, "b") })
		f.add(rec("c", "new", "u3", 5), true)
		f.up()
		time.Sleep(lastRetry)
		synctest.Wait()
		wantFound(t, c, "u3", "c")
		if _, err := find(t, c, "u2"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a pod that ended meanwhile: %v", err)
		}
		if err := c.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

func TestLookupAsksContainerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := follow(t, f, ContainerdConfig{})
		f.add(rec("a", "web", "u", 1), true)
		f.add(rec("b", "web", "u", 2), true)
		f.change(func() { f.tasks["b"] = taskGone })
		wantFound(t, c, "u", "a")
		if f.asked != 1 || len(c.List()) != 0 {
			t.Errorf("asked %d times, %d pods in the index", f.asked, len(c.List()))
		}
		if _, err := find(t, c, `u",kind!="sandbox`); !errors.Is(err, ErrNotFound) || f.asked != 1 {
			t.Errorf("not a UID: error %v, asked %d times", err, f.asked)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Lookup(ctx, "other"); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestUnusableSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := rec("a", "web", "u", 1)
		r.err = errNoPath
		f.add(r, true)
		c := follow(t, f, ContainerdConfig{})
		if _, err := find(t, c, "u"); !errors.Is(err, errNoPath) || errors.Is(err, ErrNotFound) {
			t.Errorf("error %v, want why", err)
		}
	})
}

func TestTooManyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		for _, id := range []string{"a", "b", "c"} {
			f.add(rec(id, id, "u"+id, 1), true)
		}
		c := follow(t, f, ContainerdConfig{MaxPods: 2})
		if len(c.List()) != 2 || c.Ready() == nil {
			t.Errorf("%d pods, ready: %v", len(c.List()), c.Ready())
		}
		for _, id := range []string{"a", "b", "c"} {
			wantFound(t, c, "u"+id, id)
		}
	})
}

func TestBeforeRun(t *testing.T) {
	c := NewContainerd(ContainerdConfig{})
	if _, err := c.Lookup(t.Context(), "u"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if c.Ready() == nil || len(c.List()) != 0 {
		t.Errorf("ready: %v, %d pods", c.Ready(), len(c.List()))
	}
}
