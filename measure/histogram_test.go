package measure

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

func text(d *Durations) string {
	var b bytes.Buffer
	d.Write(&b)
	return b.String()
}

func TestDurations(t *testing.T) {
	d := NewDurations("x_seconds", "door", "front")
	d.Observe("back", 0)
	d.Observe("back", 500*time.Microsecond) // a limit is in its bucket
	d.Observe("back", 501*time.Microsecond)
	d.Observe("back", 30*time.Second)
	d.Observe("back", time.Hour)
	got := text(d)
	for _, want := range []string{
		`x_seconds_bucket{door="back",le="0.0005"} 2`, `x_seconds_bucket{door="back",le="0.001"} 3`, `x_seconds_bucket{door="back",le="10"} 3`,
		`x_seconds_bucket{door="back",le="30"} 4`, `x_seconds_bucket{door="back",le="+Inf"} 5`,
		`x_seconds_sum{door="back"} 3630.001001`, `x_seconds_count{door="back"} 5`, `x_seconds_count{door="front"} 0`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Index(got, "front") < strings.Index(got, "back") {
		t.Error("series are in no order")
	}
}

func TestDurationsWithoutALabel(t *testing.T) {
	d := NewDurations("y_seconds", "")
	if got := text(d); !strings.Contains(got, "y_seconds_count 0\n") || !strings.Contains(got, `y_seconds_bucket{le="+Inf"} 0`+"\n") {
		t.Error(got)
	}
}

func TestDurationsManyAtOnce(t *testing.T) {
	d := NewDurations("z_seconds", "who")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 1000 {
				d.Observe(string(rune('a'+i%3)), time.Millisecond)
				if i%100 == 0 {
					text(d)
				}
			}
		})
	}
	all.Wait()
	if got := text(d); !strings.Contains(got, `z_seconds_count{who="a"} 2672`+"\n") {
		t.Error(got)
	}
}
