package forward

import (
	"runtime"
	"sync"
	"testing"
)

func TestMakeRoom(t *testing.T) {
	const goroutines = 1000
	used := func(begin func()) uint64 {
		var before, after runtime.MemStats
		var all, begun sync.WaitGroup
		hold := make(chan struct{})
		runtime.ReadMemStats(&before)
		for range goroutines {
			begun.Add(1)
			all.Go(func() {
				begin()
				begun.Done()
				<-hold
			})
		}
		begun.Wait()
		runtime.ReadMemStats(&after)
		close(hold)
		all.Wait()
		return after.StackInuse - before.StackInuse
	}
	if got, least := used(MakeRoom), uint64(goroutines*stackRoom); got < least {
		t.Errorf("%d goroutines have %d bytes of stacks, want %d at least", goroutines, got, least)
	}
}

func BenchmarkMakeRoom(b *testing.B) {
	for _, bb := range []struct {
		name  string
		begin func()
	}{{"grown", MakeRoom}, {"as it is", func() {}}} {
		b.Run(bb.name, func(b *testing.B) {
			for range b.N {
				var one sync.WaitGroup
				one.Go(func() {
					bb.begin()
					deep(20)
				})
				one.Wait()
			}
		})
	}
}

// deep needs as much of a stack as a connection does, in as many frames.
//
//go:noinline
func deep(n int) int {
	var local [200]byte
	local[n] = byte(n)
	if n == 0 {
		return 0
	}
	return deep(n-1) + int(local[n])
}
