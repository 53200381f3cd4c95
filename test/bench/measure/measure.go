// Package measure keeps what a run of the benchmark saw: series of samples, with
// medians, spreads and ratios of them, and the file that holds them all.
package measure

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Series is what one way showed in one case, a sample for each round.
type Series struct {
	// Case and Metric say what was measured, Way on which path.
	Case   string `json:"case"`
	Metric string `json:"metric"`
	Way    string `json:"way"`
	// Unit is that of the samples.
	Unit string `json:"unit"`
	// Less says that less is better.
	Less bool `json:"less,omitempty"`
	// Samples are in the order of the rounds; rounds that failed have none.
	Samples []float64 `json:"samples"`
	// Failures counts those rounds, Failure is what went wrong last.
	Failures int    `json:"failures,omitempty"`
	Failure  string `json:"failure,omitempty"`
}

// Median returns the median of the samples, NaN without any.
func (s *Series) Median() float64 {
	if s == nil {
		return math.NaN()
	}
	return Quantile(s.Samples, 0.5)
}

// Range returns the least and the largest sample, NaN without any.
func (s *Series) Range() (least, most float64) {
	if s == nil || len(s.Samples) == 0 {
		return math.NaN(), math.NaN()
	}
	return slices.Min(s.Samples), slices.Max(s.Samples)
}

// Quantile returns the value that a part q (0 to 1) of the samples does not
// exceed, interpolated between two samples; NaN without any.
func Quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := min(max(q, 0), 1) * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Results are all series of a run.
type Results struct {
	// Began is when the run began, Took how long it took in seconds.
	Began time.Time `json:"began"`
	Took  float64   `json:"took_seconds"`
	// Rounds is how many samples a series has at most; Quick is a run that is good
	// for nothing but trying the benchmark, and as a guard with generous floors.
	Rounds int  `json:"rounds"`
	Quick  bool `json:"quick,omitempty"`
	// Runs is how many runs the cases are from, if from more than one.
	Runs int `json:"runs,omitempty"`
	// Facts say what it ran on, Commit what was measured.
	Facts  []string  `json:"facts"`
	Commit string    `json:"commit,omitempty"`
	Series []*Series `json:"series"`
	// Gauge is how fast a fixed work was done before each measurement, in no unit:
	// what falls far below the largest was measured on a machine that others used.
	Gauge []float64 `json:"gauge,omitempty"`
	// Restless counts the measurements that began while others used the machine.
	Restless int `json:"restless,omitempty"`
}

// Of returns a series, making it if it is not there.
func (r *Results) Of(c, metric, way, unit string, less bool) *Series {
	if s := r.Find(c, metric, way); s != nil {
		return s
	}
	s := &Series{Case: c, Metric: metric, Way: way, Unit: unit, Less: less}
	r.Series = append(r.Series, s)
	return s
}

// Forget drops what is known of a case.
func (r *Results) Forget(c string) {
	r.Series = slices.DeleteFunc(r.Series, func(s *Series) bool { return s.Case == c })
}

// Find returns a series, nil if there is none.
func (r *Results) Find(c, metric, way string) *Series {
	i := slices.IndexFunc(r.Series, func(s *Series) bool { return s.Case == c && s.Metric == metric && s.Way == way })
	if i < 0 {
		return nil
	}
	return r.Series[i]
}

// Ratio returns the median of one way over that of another, NaN if either is
// missing. Of more than one base the best counts.
func (r *Results) Ratio(c, metric, way string, bases ...string) float64 {
	best := math.NaN()
	for _, base := range bases {
		s := r.Find(c, metric, base)
		m := s.Median()
		if math.IsNaN(m) || m == 0 {
			continue
		}
		if math.IsNaN(best) || (m < best) == s.Less {
			best = m
		}
	}
	return r.Find(c, metric, way).Median() / best
}

// Save writes the results as JSON, replacing the file.
func (r *Results) Save(file string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Load reads what Save wrote.
func Load(file string) (*Results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	var r Results
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return &r, nil
}
