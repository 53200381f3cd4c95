package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

// FileConfig is what a File needs. Only Path must be set.
type FileConfig struct {
	// Path names the file. It may be a symbolic link that is replaced.
	Path string
	// Limits say what the file may not use.
	Limits Limits
	// Every is how often the file is looked at. 0 means 1 s.
	Every time.Duration
	// Loaded hears of each policy that takes effect after the first, and Broken of
	// each new reason why the file as it is now cannot. nil: nobody does.
	Loaded func(*Policy)
	Broken func(error)
}

// File is a policy in a file that is followed while it changes. A file that cannot
// be used leaves the last good policy in force.
type File struct {
	cfg     FileConfig
	watched *identity.Watched[*Policy]
	now     atomic.Pointer[Policy]
	broken  atomic.Bool
	fault   string // the last that was reported; Run's

	set            *vm.Set
	loaded, spoilt *vm.Counter
}

// Open reads the file, which must hold a good policy.
func Open(cfg FileConfig) (*File, error) {
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	parse := func(files [][]byte) (*Policy, error) {
		p, err := Parse(files[0], cfg.Limits)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.Path, err)
		}
		return p, nil
	}
	w, err := identity.Watch(identity.WatchConfig{Every: time.Nanosecond, MaxSize: MaxFile}, parse, cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	f := &File{cfg: cfg, watched: w, set: vm.NewSet()}
	f.loaded = f.set.NewCounter(`culvert_relay_policy_loads_total{result="ok"}`)
	f.spoilt = f.set.NewCounter(`culvert_relay_policy_loads_total{result="broken"}`)
	f.set.NewGauge(`culvert_relay_policy_broken`, func() float64 {
		if f.broken.Load() {
			return 1
		}
		return 0
	})
	f.set.NewGauge(`culvert_relay_policy_rules`, func() float64 { return float64(f.Policy().Len()) })
	p, _ := w.Get()
	f.now.Store(p)
	f.loaded.Inc()
	return f, nil
}

// Policy returns the policy in force.
func (f *File) Policy() *Policy { return f.now.Load() }

// Run follows the file until ctx ends. What is new there takes effect when two
// looks in a row have found the same: who writes a file in place must not have half
// of his rules in force.
func (f *File) Run(ctx context.Context) error {
	tick := time.NewTicker(f.cfg.Every)
	defer tick.Stop()
	var last sight
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		seen := f.look()
		if seen == last {
			f.settle(seen)
		}
		last = seen
	}
}

// sight is what a look at the file found: one of the two.
type sight struct {
	policy *Policy // the same as long as the contents are
	fault  string
}

func (f *File) look() sight {
	p, err := f.watched.Get()
	if err != nil {
		return sight{fault: err.Error()}
	}
	return sight{policy: p}
}

// settle puts in force what was found, once.
func (f *File) settle(s sight) {
	switch {
	case s.fault != "" && s.fault != f.fault:
		f.fault = s.fault
		f.broken.Store(true)
		f.spoilt.Inc()
		if f.cfg.Broken != nil {
			f.cfg.Broken(errors.New(s.fault))
		}
	case s.fault != "":
	case s.policy != f.now.Load():
		f.now.Store(s.policy)
		f.loaded.Inc()
		if f.cfg.Loaded != nil {
			f.cfg.Loaded(s.policy)
		}
		fallthrough
	default:
		f.fault = ""
		f.broken.Store(false)
	}
}

// WriteMetrics writes what is counted of the file in the text format of Prometheus.
func (f *File) WriteMetrics(w io.Writer) { f.set.WritePrometheus(w) }
