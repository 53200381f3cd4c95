package garbage

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		live, floor uint64
		want        int
	}{
		{0, 16 * mib, most},
		{mib, 16 * mib, most},
		{8 * mib, 16 * mib, 200},
		{16 * mib, 16 * mib, 100},
		{1 << 40, 16 * mib, goDefault},
		{mib, 0, goDefault},
	} {
		if got := percent(tc.live, tc.floor); got != tc.want {
			t.Errorf("%d bytes alive, %d spare: %d percent, want %d", tc.live, tc.floor, got, tc.want)
		}
	}
}

func TestSpareFollowsWhatLives(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(goDefault)
	Spare(16 << 20)
	until(t, most)
	held := make([]byte, 64<<20)
	until(t, goDefault)
	runtime.KeepAlive(held) // its last use
	until(t, most)
}

func TestSpareLeavesGOGCAlone(t *testing.T) {
	t.Setenv("GOGC", "50")
	before := now()
	Spare(16 << 20)
	if now() != before {
		t.Errorf("%d percent, and before %d", now(), before)
	}
}

// until collects until the percentage is want.
func until(t *testing.T, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); now() != want; {
		if time.Now().After(deadline) {
			t.Fatalf("%d percent, want %d", now(), want)
		}
		runtime.GC()
		time.Sleep(time.Millisecond) // for the cleanup, which runs by itself
	}
}

func now() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
