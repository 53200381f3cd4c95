package measure

import (
	"math"
	"path/filepath"
	"reflect"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		q, want float64
	}{
		{[]float64{3}, 0.5, 3},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{0, 10}, 0.99, 9.9},
		{[]float64{5, 1}, 0, 1},
		{[]float64{5, 1}, 1, 5},
	} {
		if got := Quantile(tt.samples, tt.q); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("Quantile(%v, %v) = %v, want %v", tt.samples, tt.q, got, tt.want)
		}
	}
	if !math.IsNaN(Quantile(nil, 0.5)) {
		t.Error("a median of nothing")
	}
}

func TestRatioTakesTheBestBase(t *testing.T) {
	var r Results
	for _, s := range []struct {
		metric, way string
		less        bool
		value       float64
	}{
		{"speed", "ours", false, 300}, {"speed", "one", false, 100}, {"speed", "two", false, 200},
		{"latency", "ours", true, 1}, {"latency", "one", true, 4}, {"latency", "two", true, 2},
	} {
		series := r.Of("c", s.metric, s.way, "", s.less)
		series.Samples = append(series.Samples, s.value)
	}
	if got := r.Ratio("c", "speed", "ours", "one", "two"); got != 1.5 {
		t.Errorf("speed: %v", got)
	}
	if got := r.Ratio("c", "latency", "ours", "one", "two", "missing"); got != 0.5 {
		t.Errorf("latency: %v", got)
	}
	if got := r.Ratio("c", "latency", "ours", "missing"); !math.IsNaN(got) {
		t.Errorf("without a base: %v", got)
	}
	if got := r.Ratio("c", "latency", "missing", "one"); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func TestSaveAndLoad(t *testing.T) {
	want := &Results{Rounds: 3, Facts: []string{"2 cores"}}
	s := want.Of("bulk", "speed", "ours", "MB/s", false)
	s.Samples, s.Failures, s.Failure = []float64{1, 2.5}, 1, "late"
	file := filepath.Join(t.TempDir(), "new", "results.json")
	if err := want.Save(file); err != nil {
		t.Fatal(err)
	}
	got, err := Load(file)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
