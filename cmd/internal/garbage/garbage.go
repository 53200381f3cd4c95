// Package garbage sets how much garbage a program lets gather before it is
// collected. Go's own rule, as much as lives, has a program that holds little
// collect all the time: one with 3 MiB alive that opens 4,000 connections a second
// does so 60 times a second, and shrinks stacks that grow again at once.
package garbage

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// goDefault is what Go does by itself, in percent of what lives.
	goDefault = 100
	// most is the highest percentage. Go begins with a heap of 4 MiB, of which it
	// makes 16 MiB.
	most = 400
	// Floor is what servers and clients of Culvert spare, in bytes.
	Floor = 32 << 20
	// liveBytes is what the last collection left.
	liveBytes = "/gc/heap/live:bytes"
)

// Spare has garbage collected when there is as much of it as lives, or as floor, in
// bytes, whatever is more; but never more than four times what lives. It stays so
// until the process ends. With the variable GOGC somebody else has decided, and it
// does nothing. A memory limit (GOMEMLIMIT) goes before it.
func Spare(floor uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	k := &keeper{floor: floor, now: most}
	debug.SetGCPercent(most)
	k.arm()
}

// keeper looks after each collection how much lives. It is used by one goroutine at
// a time: a collection does not end before the one before it.
type keeper struct {
	floor uint64
	now   int // percent
}

// arm has judge called after the next collection.
func (k *keeper) arm() {
	runtime.AddCleanup(new(marker), (*keeper).judge, k)
}

// marker dies with the next collection. It is no part of a block with others, which
// would keep it.
type marker struct{ _ [32]uintptr }

func (k *keeper) judge() {
	sample := []metrics.Sample{{Name: liveBytes}}
	metrics.Read(sample)
	if sample[0].Value.Kind() == metrics.KindUint64 {
		k.set(percent(sample[0].Value.Uint64(), k.floor))
	}
	k.arm()
}

// set changes the percentage, which stops the program for a moment, only if it
// makes a difference.
func (k *keeper) set(want int) {
	if diff := want - k.now; diff > k.now/8 || -diff > k.now/8 {
		k.now = want
		debug.SetGCPercent(want)
	}
}

// percent is what makes floor of what lives, within its bounds.
func percent(live, floor uint64) int {
	return int(min(max(100*floor/max(live, 1), goDefault), most))
}
