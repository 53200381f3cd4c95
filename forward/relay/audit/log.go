package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
	"golang.org/x/time/rate"
)

// Config says where records go. Path or Out must be set.
type Config struct {
	// Path is the file that lines are added to. It is made if need be, for its owner
	// alone, and opened again when another file has its place. What is there and is no
	// regular file is refused.
	Path string

	// Out takes the lines in the place of a file. Its Write may wait; Close does not
	// close it.
	Out io.Writer

	// Required makes Admit refuse while records cannot be written. Otherwise they are
	// dropped and counted then.
	Required bool

	// Queue is how many records may wait for the writer. 0 means 8,192: some MB at
	// most.
	Queue int

	// Report hears, once for each time it begins and once when it is over, that
	// records cannot be written. nil: nobody does.
	Report func(error)
}

const (
	// floodRate and floodBurst bound the records of what was refused, of each of the
	// two events, since whoever is refused can ask again as fast as he likes.
	floodRate, floodBurst = 100, 1000
	// stalledAfter is how long one write may take before Admit counts it as failed.
	stalledAfter = 5 * time.Second
	// partingTime bounds how long Close waits for a writer that takes nothing.
	partingTime = 5 * time.Second
)

// errFull is what Admit says while the queue is too full.
var errFull = errors.New("more is to be written down than the disk takes")

// Log takes records. Make one with Open, and Close it. All methods may be called at
// any time, by anybody, and on nil, which is a log that keeps nothing.
type Log struct {
	cfg   Config
	relay atomic.Pointer[string]
	flood map[Event]*flood

	queue  chan *entry
	reopen chan struct{} // holds one
	quit   chan struct{}
	done   chan struct{} // closed when the writer has ended
	close  sync.Once

	// born is what busy counts from: a clock that is set stalls nothing.
	born  time.Time
	busy  atomic.Int64 // since when a write goes on, in nanoseconds; 0: none does
	fault atomic.Pointer[error]

	set     *vm.Set
	written *vm.Counter
	full    *vm.Counter // dropped: no room
	lost    *vm.Counter // dropped: still there at the end
}

// flood bounds the records of one event.
type flood struct {
	limit   *rate.Limiter
	waiting atomic.Int64 // left out since the last one
	dropped *vm.Counter
}

// Open opens the log. The caller closes it.
func Open(cfg Config) (*Log, error) {
	if (cfg.Path == "") == (cfg.Out == nil) {
		return nil, errors.New("audit log needs a file, or a writer, and not both")
	}
	if cfg.Queue <= 0 {
		cfg.Queue = 8192
	}
	l := &Log{
		cfg: cfg, queue: make(chan *entry, cfg.Queue), reopen: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
		born: time.Now().Add(-1), // so that no moment of it is 0
	}
	l.count()
	w := &writer{log: l, out: cfg.Out}
	if cfg.Path != "" {
		if err := w.open(); err != nil {
			return nil, err
		}
	}
	go func() { // Close waits for it
		defer close(l.done)
		w.run()
	}()
	return l, nil
}

func (l *Log) count() {
	l.set = vm.NewSet()
	l.written = l.set.NewCounter(`culvert_relay_audit_records_total`)
	dropped := func(reason string) *vm.Counter {
		return l.set.NewCounter(fmt.Sprintf(`culvert_relay_audit_dropped_total{reason=%q}`, reason))
	}
	l.full, l.lost = dropped("queue-full"), dropped("closed")
	l.flood = map[Event]*flood{}
	for _, e := range []Event{StreamRefused, AccessRefused} {
		l.flood[e] = &flood{limit: rate.NewLimiter(floodRate, floodBurst), dropped: dropped("too-many-" + string(e))}
	}
	l.set.NewGauge(`culvert_relay_audit_queued`, func() float64 { return float64(len(l.queue)) })
	l.set.NewGauge(`culvert_relay_audit_failing`, func() float64 {
		if l.failing() == nil {
			return 0
		}
		return 1
	})
}

// Identify names the relay in every record.
func (l *Log) Identify(relay string) {
	if l != nil {
		l.relay.Store(&relay)
	}
}

// Write hands a record in. It never waits.
func (l *Log) Write(r Record) {
	if l == nil {
		return
	}
	e := &entry{Record: r}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	f := l.flood[r.Event]
	if f != nil {
		if !f.limit.AllowN(e.Time, 1) {
			f.waiting.Add(1)
			f.dropped.Inc()
			return
		}
		e.leftOut = f.waiting.Swap(0)
	}
	select {
	case l.queue <- e:
	default:
		l.full.Inc()
		if f != nil {
			f.waiting.Add(e.leftOut)
		}
	}
}

// Admit tells whether a stream may begin. It may not while records are lost, or
// would be if many came now, and the log is required.
func (l *Log) Admit() error {
	if l == nil || !l.cfg.Required {
		return nil
	}
	// What runs has its end yet to be written down.
	if len(l.queue) > cap(l.queue)/2 {
		return errFull
	}
	return l.failing()
}

// failing returns what is wrong with the writer, nil if nothing is.
func (l *Log) failing() error {
	if err := l.fault.Load(); err != nil {
		return *err
	}
	if began := l.busy.Load(); began != 0 && int64(time.Since(l.born))-began > int64(stalledAfter) {
		return fmt.Errorf("audit log takes nothing for more than %s", stalledAfter)
	}
	return nil
}

// begins notes that the writer does something that may take long, and with what it
// returns that it does so no more.
func (l *Log) begins() (over func()) {
	l.busy.Store(int64(time.Since(l.born)))
	return func() { l.busy.Store(0) }
}

// Reopen opens the file anew soon, for whoever has moved it away.
func (l *Log) Reopen() {
	if l == nil {
		return
	}
	select {
	case l.reopen <- struct{}{}:
	default: // once is enough
	}
}

// Close writes what waits and ends. What is handed in later is lost. If the log
// takes nothing, Close gives up after 5 s and says so; the write that goes on is
// abandoned then, since nothing can end it.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.close.Do(func() { close(l.quit) })
	t := time.NewTimer(partingTime)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
		return fmt.Errorf("close audit log: it takes nothing, and %d records or more are lost", len(l.queue))
	}
	if err := l.fault.Load(); err != nil {
		return fmt.Errorf("close audit log: %w", *err)
	}
	return nil
}

// WriteMetrics writes what was counted in the text format of Prometheus.
func (l *Log) WriteMetrics(w io.Writer) {
	if l != nil {
		l.set.WritePrometheus(w)
	}
}

// openFile opens a file to add to.
func openFile(path string) (*os.File, error) {
	if at, err := os.Stat(path); err == nil && !at.Mode().IsRegular() {
		return nil, fmt.Errorf("open audit log: %s is no regular file; give - for standard output", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return f, nil
}
