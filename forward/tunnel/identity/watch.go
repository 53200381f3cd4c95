package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	defaultEvery   = time.Second
	defaultMaxSize = 1 << 20
)

// WatchConfig says how files are watched. The zero value works.
type WatchConfig struct {
	// Every is the shortest time between two looks at the files, so that a flood
	// of handshakes does not become a flood of reads. 0 means 1 second.
	Every time.Duration
	// MaxSize is the largest file that is read, in bytes. 0 means 1 MiB.
	MaxSize int64
	// Check may refuse a file by what it is (mode, owner). Nil accepts any
	// regular file.
	Check func(fs.FileInfo) error
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Report is told, once for each new reason, why the files as they are now
	// cannot be used. Nil drops it. It is called without locks held.
	Report func(error)
}

// Watched is a value made from files, made again when their contents change.
// It keeps no goroutine and no watch of the operating system: whoever asks for
// the value looks, at most once in WatchConfig.Every. Contents are compared and
// not dates, so a replaced symbolic link or a coarse clock cannot hide a change.
type Watched[T any] struct {
	cfg   WatchConfig
	paths []string
	parse func(files [][]byte) (T, error)

	mu      sync.Mutex
	looking bool
	looked  time.Time
	sum     [sha256.Size]byte // contents of the last attempt, good or bad; zero when they could not be read
	value   T                 // the last good value
	err     error             // why the last attempt failed
	blind   bool              // the last attempt told nothing about the files
}

// isBlind tells whether an error is about this process and not about the files:
// one that has no descriptors left must not take that for tokens and authorities
// that were taken away, and turn out everybody it knows.
func isBlind(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// Watch loads the files for the first time, which must succeed. parse is given
// the contents in the order of paths; it is never called twice at once and must
// not keep the slices.
func Watch[T any](cfg WatchConfig, parse func(files [][]byte) (T, error), paths ...string) (*Watched[T], error) {
	if cfg.Every <= 0 {
		cfg.Every = defaultEvery
	}
	if cfg.MaxSize <= 0 {
		cfg.MaxSize = defaultMaxSize
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	w := &Watched[T]{cfg: cfg, paths: paths, parse: parse}
	w.looked = cfg.Now()
	w.value, w.sum, _, w.err = w.look(w.sum)
	if w.err != nil {
		return nil, w.err
	}
	return w, nil
}

// Get returns the last good value, and an error when the files as they are now
// cannot be used: a caller that serves goes on with the value, a caller for whom
// a removed file means "no longer" obeys the error. A process that cannot look,
// since it has no descriptors or memory, gets what it got before.
func (w *Watched[T]) Get() (T, error) {
	now := w.cfg.Now()
	w.mu.Lock()
	since := now.Sub(w.looked)
	// Whoever comes while another one looks takes what is known: a slow disk
	// must not queue up every handshake. A clock set back does not stop looking.
	if w.looking || since >= 0 && since < w.cfg.Every {
		value, err := w.value, w.err
		w.mu.Unlock()
		return value, err
	}
	w.looking, w.looked = true, now
	last := w.sum
	w.mu.Unlock()

	value, sum, same, err := w.look(last)

	w.mu.Lock()
	w.looking = false
	var report error
	wasBlind := w.blind
	w.blind = isBlind(err)
	switch {
	case same:
	case err == nil:
		w.value, w.sum, w.err = value, sum, nil
	case w.blind:
		if !wasBlind {
			report = err
		}
	default:
		if w.err == nil || w.err.Error() != err.Error() {
			report = err
		}
		w.sum, w.err = sum, err
	}
	value, err = w.value, w.err
	w.mu.Unlock()
	if report != nil && w.cfg.Report != nil {
		w.cfg.Report(report)
	}
	return value, err
}

// look reads the files and parses them, unless their contents are those of the
// last attempt (same).
func (w *Watched[T]) look(last [sha256.Size]byte) (value T, sum [sha256.Size]byte, same bool, err error) {
	files := make([][]byte, len(w.paths))
	h := sha256.New()
	for i, path := range w.paths {
		files[i], err = readFile(path, w.cfg.MaxSize, w.cfg.Check)
		if err != nil {
			return value, sum, false, err
		}
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(files[i])))
		h.Write(size[:])
		h.Write(files[i])
	}
	h.Sum(sum[:0])
	if sum == last {
		return value, sum, true, nil
	}
	value, err = w.parse(files)
	return value, sum, false, err
}

// readFile reads a regular file of at most limit bytes. It asks what the file is
// before it opens it, because opening a pipe could block for ever.
func readFile(path string, limit int64, check func(fs.FileInfo) error) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err // names operation and path
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	if check != nil {
		if err := check(info); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, limit)
	}
	return b, nil
}
