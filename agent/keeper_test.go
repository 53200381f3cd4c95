package agent

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestNoRoute is quiet about an address of a family that this node has not, as
// long as another one serves.
func TestNoRoute(t *testing.T) {
	a, err := New(Config{Node: "n", Relays: []string{"r:1"}, Pods: local(nil), Identity: &fixed{}})
	if err != nil {
		t.Fatal(err)
	}
	unreachable := &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
	for _, tt := range []struct {
		err     error
		tunnels int64
		level   string
	}{
		{unreachable, 1, "DEBUG"},
		{unreachable, 0, "WARN"},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, 1, "WARN"},
	} {
		log := &journal{}
		k := a.newKeeper("r:1", atC)
		k.log, k.name = log.logger(), &follower{stale: make(chan struct{}, 1)}
		k.name.tunnels.Store(tt.tunnels)
		k.failed(tt.err, &complaint{log: k.log})
		if !strings.Contains(log.String(), `"level":"`+tt.level) || (len(k.name.stale) == 0) != (tt.level == "DEBUG") {
			t.Errorf("%v with %d tunnels: %s", tt.err, tt.tunnels, log)
		}
	}
}

// TestKeeperLeaves gives an address up and takes it back, before the keeper has
// noticed and after.
func TestKeeperLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{resolve: always()} // dials hang
		a, err := New(Config{Node: "n", Relays: []string{"r:1"}, Pods: local(nil), Identity: n, DialTimeout: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		k := a.newKeeper("r:1", atA)
		done := make(chan struct{})
		go func() { defer close(done); k.run(t.Context(), t.Context()) }()
		synctest.Wait()
		k.mu.Lock() // both before the keeper notices
		k.unwanted = true
		k.giveUp()
		k.unwanted = false
		k.mu.Unlock()
		time.Sleep(firstPause)
		synctest.Wait()
		if tries := len(n.dials[atA]); tries != 2 {
			t.Errorf("%d dials, want another one for an address that is back", tries)
		}
		k.leave()
		<-done
		if k.want() {
			t.Error("a keeper that has ended says that it goes on")
		}
	})
}

// TestTurn has nodes come to a new relay one after the other, but not one that loses
// its last tunnel meanwhile.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := New(Config{Node: "n", Relays: []string{"r:1"}, Pods: local(nil), Identity: &fixed{}})
		if err != nil {
			t.Fatal(err)
		}
		k := a.newKeeper("r:1", atA)
		wait := func(spread time.Duration) time.Duration {
			began := time.Now()
			k.turn(t.Context(), spread)
			return time.Since(began)
		}
		other := a.fleet.enter("r:1", atB)
		if d := wait(time.Hour); d > time.Second {
			t.Errorf("without a tunnel it waited for %v", d)
		}
		a.fleet.registered(other, "b")
		longest := time.Duration(0)
		for range 50 {
			longest = max(longest, wait(time.Hour))
		}
		if longest < time.Minute || longest > time.Hour {
			t.Errorf("with a tunnel it waited for %v at most", longest)
		}
		if d := wait(0); d != 0 {
			t.Errorf("nobody asked it to wait for %v", d)
		}
		lost := make(chan struct{})
		go func() {
			defer close(lost)
			time.Sleep(time.Millisecond)
			a.fleet.leave(other)
		}()
		if d := wait(1000 * time.Hour); d > time.Second+time.Millisecond {
			t.Errorf("the last tunnel was lost, and it waited for %v", d)
		}
		<-lost
	})
}
