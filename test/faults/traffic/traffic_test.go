package traffic

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is more than anything here takes.
const patience = 30 * time.Second

// direct returns a load whose flow leads straight to the pod's end, or through
// what between makes of the way.
func direct(t *testing.T, cfg Config, between func(t *testing.T, target string) string) *Load {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := ln.Addr().String()
	if between != nil {
		at = between(t, at)
	}
	cfg.Flows = []Flow{{Name: "one", Dial: func(ctx context.Context) (*net.TCPConn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", at)
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}}}
	l := Start(cfg)
	t.Cleanup(l.Stop)
	l.Serve(ln)
	return l
}

// until waits for so many connections that were judged.
func until(t *testing.T, l *Load, n int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		all := l.Totals()
		if all.Clean+all.Cut+all.Refused >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %+v", all)
		}
	}
}

func TestAllIsWellWithoutFaults(t *testing.T) {
	l := direct(t, Config{Workers: 8, Pause: time.Millisecond}, nil)
	until(t, l, 100)
	if err := l.Probe(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.Quiet(ctx); err != nil {
		t.Error(err)
	}
	all := l.Totals()
	if err := l.Problems(); err != nil || all.Begun != all.Clean || all.Bytes == 0 {
		t.Errorf("%+v, %v", all, err)
	}
	l.Resume()
	until(t, l, all.Clean+10)
}

// All kinds do what they are for, and end.
func TestKinds(t *testing.T) {
	l := direct(t, Config{Workers: 1, Pause: time.Hour}, nil)
	for _, kind := range []Kind{Requests, Upload, Download, Duplex, PodFirst, ClientAbort, PodAbort, Idle, Greeting} {
		p := newPlan(kind, testRand(), 1<<20)
		if kind == Idle {
			for i := range p.near {
				p.near[i].d = 0
			}
		}
		l.call(t.Context(), l.flows[0], p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.Quiet(ctx); err != nil {
		t.Error(err)
	}
	if err := l.Problems(); err != nil {
		t.Error(err)
	}
}

// What is wrong is found: without this the rest would prove nothing.
func TestWrongsAreFound(t *testing.T) {
	for _, tc := range []struct {
		name    string
		spoil   func(*spoiler)
		excused bool // also while a fault is in force
		want    string
	}{
		{"a byte changed", func(s *spoiler) { s.flip = true }, true, "is not the one that was sent"},
		{"a byte lost", func(s *spoiler) { s.drop = true }, true, "is not the one that was sent"},
		{"an end invented", func(s *spoiler) { s.finish = true }, true, "end after"},
		{"cut without a fault", func(s *spoiler) { s.reset = true }, false, "no fault was in force"},
		{"a connection made twice", func(s *spoiler) { s.twice = true }, true, "came to a pod twice"},
		{"another's connection", func(s *spoiler) { s.stranger = true }, true, "which nobody made"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &spoiler{}
			tc.spoil(s)
			l := direct(t, Config{Pause: 10 * time.Millisecond}, s.start)
			if tc.excused {
				l.Disturb("one")
			}
			deadline := time.Now().Add(patience)
			var all strings.Builder
			for !strings.Contains(all.String(), tc.want) {
				if err := l.Problems(); err != nil {
					all.WriteString(err.Error())
				}
				if time.Now().After(deadline) {
					t.Fatalf("not found; it said %s", all.String())
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

// A connection that neither goes on nor ends is found, and so is what a fault
// costs.
func TestHangsAreFound(t *testing.T) {
	s := &spoiler{stall: true}
	l := direct(t, Config{Pause: 10 * time.Millisecond}, s.start)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	time.Sleep(20 * time.Millisecond)
	if err := l.Settle(ctx); err == nil || !strings.Contains(err.Error(), "hang") {
		t.Errorf("settle: %v", err)
	}
	if err := l.Quiet(ctx); err == nil || !strings.Contains(err.Error(), "hang") {
		t.Errorf("quiet: %v", err)
	}
	if err := l.Probe(ctx, "one"); err == nil {
		t.Error("a probe went well")
	}
}

func TestDisturbance(t *testing.T) {
	s := &spoiler{reset: true}
	l := direct(t, Config{Pause: 10 * time.Millisecond}, s.start)
	d := l.Disturb("one")
	until(t, l, 20)
	d.End()
	if _, seen := d.Noticed(); !seen {
		t.Error("nothing noticed")
	}
	if n := d.Totals(); n.Cut+n.Refused == 0 {
		t.Errorf("%+v", n)
	}
}
