package connect

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	for range 100 {
		b := Backoff{First: 100 * time.Millisecond, Max: 5 * time.Second}
		for range 2 {
			if d := b.Next(); d != 0 {
				t.Fatalf("the first pause is %v", d)
			}
			for i, most := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000} {
				most *= time.Millisecond
				if d := b.Next(); d < most/2 || d > most {
					t.Fatalf("pause %d is %v, want %v to %v", i+1, d, most/2, most)
				}
			}
			b.Reset()
		}
	}
}
