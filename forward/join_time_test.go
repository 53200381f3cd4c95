package forward_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

// The client has asked and finished; the answer comes ten minutes later and is whole.
func TestJoinHalfCloseHasNoTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := start(t, memPair, memPair, nil)
		j.x.Write([]byte("question"))
		j.x.CloseWrite()
		if got, err := io.ReadAll(j.y); string(got) != "question" || err != nil {
			t.Fatalf("y read %q, %v", got, err)
		}
		time.Sleep(10 * time.Minute)
		j.y.Write([]byte("ans"))
		time.Sleep(10 * time.Minute)
		j.y.Write([]byte("wer"))
		j.y.CloseWrite()
		if got, err := io.ReadAll(j.x); string(got) != "answer" || err != nil {
			t.Errorf("x read %q, %v", got, err)
		}
		if r := <-j.result; r.err != nil || r.stats != (forward.Stats{AtoB: 8, BtoA: 6}) {
			t.Errorf("Join: %+v, %v", r.stats, r.err)
		}
	})
}

// y reads nothing, so x's writes stall; what y sends still flows, in as many pieces as it likes.
func TestJoinStalledWriterBlocksOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := start(t, memPair, memPair, nil)
		var stalled atomic.Bool
		go func() {
			_, err := j.x.Write(make([]byte, 1<<20))
			stalled.Store(true)
			if err == nil {
				t.Error("a megabyte went into a stalled connection")
			}
		}()
		p := make([]byte, 4096)
		for i := range 1000 {
			if _, err := j.y.Write(p); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(j.x, p); err != nil {
				t.Fatalf("piece %d: %v", i, err)
			}
		}
		synctest.Wait()
		if stalled.Load() {
			t.Error("the write was not stalled at all")
		}
		j.cancel(errOnPurpose)
		if r := <-j.result; !errors.Is(r.err, errOnPurpose) || r.stats.BtoA != 4096*1000 {
			t.Errorf("Join: %+v, %v", r.stats, r.err)
		}
		synctest.Wait()
	})
}

// Idle connections that can wait without a buffer hold none; others hold one for each direction.
func TestJoinIdleHoldsNoBuffer(t *testing.T) {
	tests := []struct {
		name string
		wrap func(c forward.Conn) forward.Conn
		want int64
	}{
		{"lazy", func(c forward.Conn) forward.Conn { return c }, 0},
		{"plain", func(c forward.Conn) forward.Conn { return bare{c} }, 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				joiner := new(forward.Joiner)
				ctx, cancel := context.WithCancel(t.Context())
				for range 10 {
					x, a := forwardtest.Pipe()
					b, y := forwardtest.Pipe()
					go func() { _, _ = joiner.Join(ctx, tt.wrap(a), tt.wrap(b), nil) }()
					go func() { _, _ = io.Copy(struct{ io.Writer }{y}, y) }()
					p := make([]byte, 100_000)
					go func() { _, _ = x.Write(p) }()
					if _, err := io.ReadFull(x, p); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if n := joiner.Lent(); n != tt.want {
					t.Errorf("%d buffers out while idle, want %d", n, tt.want)
				}
				cancel()
				synctest.Wait()
				if n := joiner.Lent(); n != 0 {
					t.Errorf("%d buffers out after the end", n)
				}
			})
		})
	}
}

// TCP waits in the poller, outside of any bubble.
func TestJoinIdleTCPHoldsNoBuffer(t *testing.T) {
	x, a, _, errA := connPair()
	y, b, _, errB := connPair()
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.(forward.LazyReader); !ok {
		t.Skip("TCP reads with a buffer on this system")
	}
	joiner := new(forward.Joiner)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _, _ = joiner.Join(ctx, a, b, nil) }()
	p := make([]byte, 1000)
	for _, c := range [][2]forward.Conn{{x, y}, {y, x}} {
		if _, err := c[0].Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c[1], p); err != nil {
			t.Fatal(err)
		}
	}
	for joiner.Lent() != 0 { // a Join that holds on to a buffer never gets there
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	x.Close()
	y.Close()
}

// Live counts can be read while the Join runs, and agree with the Stats in the end.
func TestJoinLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, a := forwardtest.Pipe()
		b, y := forwardtest.Pipe()
		var live forward.Live
		done := make(chan result)
		go func() {
			stats, err := new(forward.Joiner).Join(t.Context(), a, b, &live)
			done <- result{stats, err}
		}()
		x.Write([]byte("12345"))
		y.Write([]byte("123"))
		synctest.Wait()
		if up, down := live.AtoB.Load(), live.BtoA.Load(); up != 5 || down != 3 {
			t.Errorf("live %d and %d, want 5 and 3", up, down)
		}
		x.CloseWrite()
		y.CloseWrite()
		synctest.Wait()
		if r := <-done; r.err != nil || r.stats != (forward.Stats{AtoB: 5, BtoA: 3}) {
			t.Errorf("Join: %+v, %v", r.stats, r.err)
		}
	})
}

// A context that is done before anything was joined, and bytes that never reached the other side.
func TestJoinCanceledBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, a := forwardtest.Pipe()
		b, y := forwardtest.Pipe()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errOnPurpose)
		if _, err := new(forward.Joiner).Join(ctx, a, b, nil); !errors.Is(err, errOnPurpose) {
			t.Errorf("Join: %v", err)
		}
		if readToEnd(x) != aborted || readToEnd(y) != aborted {
			t.Error("a far end was not aborted")
		}
	})
}

// Bytes count when the destination took them, not when they were read.
func TestJoinCountsWhatWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := start(t, memPair, memPair, nil)
		go func() { _, _ = j.x.Write(make([]byte, 1<<20)) }()
		synctest.Wait()
		j.cancel(errOnPurpose)
		if r := <-j.result; r.stats.AtoB != forwardtest.PipeBuffer {
			t.Errorf("%d bytes counted, want the %d that fit", r.stats.AtoB, forwardtest.PipeBuffer)
		}
		synctest.Wait()
	})
}
