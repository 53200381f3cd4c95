// Package measure is a histogram in the form that Prometheus knows: buckets with an
// upper limit in the label le. The library that counts everything else here makes
// its histograms in a form of its own, which no quantile of Prometheus reads.
package measure

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// bounds are the upper limits of the buckets, in seconds: from what a connection
// costs within a rack to the longest that anybody waits for one. They are the same
// for all, so that they can be set side by side.
func bounds() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// Durations is a histogram of how long something took, with one label. Make one
// with NewDurations. All methods may be called by many goroutines at a time.
type Durations struct {
	name, label string
	bounds      []float64

	mu  sync.RWMutex
	all map[string]*series
}

type series struct {
	buckets []atomic.Uint64 // the last one is for what is above all limits
	sum     atomic.Int64    // nanoseconds
}

// NewDurations makes a histogram of the given name, which ends in _seconds, as does
// its unit. With an empty label there is one series; otherwise one for each value
// that is observed, so values must be few and none a peer's to choose. Those that are
// named here are there from the start.
func NewDurations(name, label string, values ...string) *Durations {
	d := &Durations{name: name, label: label, bounds: bounds(), all: make(map[string]*series)}
	if label == "" {
		values = []string{""}
	}
	for _, v := range values {
		d.all[v] = d.newSeries()
	}
	return d
}

func (d *Durations) newSeries() *series {
	return &series{buckets: make([]atomic.Uint64, len(d.bounds)+1)}
}

// Observe counts one that took so long. value is that of the label, empty without
// one.
func (d *Durations) Observe(value string, took time.Duration) {
	d.mu.RLock()
	s := d.all[value]
	d.mu.RUnlock()
	if s == nil {
		s = d.add(value)
	}
	i, _ := slices.BinarySearch(d.bounds, took.Seconds())
	s.buckets[i].Add(1)
	s.sum.Add(int64(took))
}

func (d *Durations) add(value string) *series {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.all[value]
	if s == nil {
		s = d.newSeries()
		d.all[value] = s
	}
	return s
}

// Write writes it in the text format of Prometheus.
func (d *Durations) Write(w io.Writer) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, value := range slices.Sorted(maps.Keys(d.all)) {
		d.all[value].write(w, d, value)
	}
}

func (s *series) write(w io.Writer, d *Durations, value string) {
	own, rest := "", ""
	if d.label != "" {
		own = fmt.Sprintf("%s=%q,", d.label, value)
		rest = fmt.Sprintf("{%s=%q}", d.label, value)
	}
	var n uint64
	for i := range s.buckets {
		le := "+Inf"
		if i < len(d.bounds) {
			le = strconv.FormatFloat(d.bounds[i], 'g', -1, 64)
		}
		n += s.buckets[i].Load()
		fmt.Fprintf(w, "%s_bucket{%sle=%q} %d\n", d.name, own, le, n)
	}
	fmt.Fprintf(w, "%s_sum%s %s\n", d.name, rest, strconv.FormatFloat(time.Duration(s.sum.Load()).Seconds(), 'g', -1, 64))
	fmt.Fprintf(w, "%s_count%s %d\n", d.name, rest, n)
}
