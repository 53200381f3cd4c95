//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Bounds on what is kept in memory of one process; the log file has no bound.
const (
	maxLines   = 100_000
	maxLineLen = 64 << 10
)

// errNoMoreOutput reports that the process ended without the awaited line.
var errNoMoreOutput = errors.New("process ended")

// Origin says which stream a line came from.
type Origin uint8

// The two streams of a process.
const (
	Stdout Origin = iota + 1
	Stderr
)

// String returns "out" or "err".
func (o Origin) String() string {
	if o == Stdout {
		return "out"
	}
	return "err"
}

// Line is one line of a process's output, without its newline.
type Line struct {
	// Time is when the lab read it.
	Time time.Time
	// From is the stream it came from.
	From Origin
	// Text is the line, cut at 64 KiB.
	Text string
}

// outputLog keeps the lines of one process and copies them to a file.
type outputLog struct {
	mu      sync.Mutex
	lines   []Line
	file    io.WriteCloser // nil: no file
	closed  bool
	changed chan struct{} // closed and replaced at each change
}

// newOutputLog writes to path as well, unless path is empty.
func newOutputLog(path string) (*outputLog, error) {
	l := &outputLog{changed: make(chan struct{})}
	if path == "" {
		return l, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open process log: %w", err)
	}
	l.file = f
	return l, nil
}

func (l *outputLog) add(from Origin, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := Line{Time: time.Now(), From: from, Text: text}
	if len(l.lines) < maxLines {
		l.lines = append(l.lines, line)
	}
	if l.file != nil {
		fmt.Fprintf(l.file, "%s %s %s\n", line.Time.Format("15:04:05.000000"), from, text)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *outputLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	if l.file != nil {
		l.file.Close()
	}
	close(l.changed)
}

func (l *outputLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

func (l *outputLog) snapshot() []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Line(nil), l.lines...)
}

func (l *outputLog) text(from Origin) string {
	var b strings.Builder
	for _, line := range l.snapshot() {
		if line.From == from {
			b.WriteString(line.Text)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// wait looks for re in the lines from number mark on, until there is one.
func (l *outputLog) wait(ctx context.Context, mark int, re *regexp.Regexp) ([]string, error) {
	for {
		l.mu.Lock()
		fresh, closed, changed := l.lines[min(mark, len(l.lines)):], l.closed, l.changed
		l.mu.Unlock()
		for _, line := range fresh {
			if m := re.FindStringSubmatch(line.Text); m != nil {
				return m, nil
			}
		}
		mark += len(fresh)
		if closed {
			return nil, fmt.Errorf("%w%s", errNoMoreOutput, l.tail(10))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w%s", context.Cause(ctx), l.tail(10))
		}
	}
}

// tail returns the last n lines, for error texts.
func (l *outputLog) tail(n int) string {
	lines := l.snapshot()
	if len(lines) == 0 {
		return "; it wrote nothing"
	}
	var b strings.Builder
	b.WriteString("; its last lines:")
	for _, line := range lines[max(0, len(lines)-n):] {
		b.WriteString("\n\t" + line.Text)
	}
	return b.String()
}

// writer returns the sink of one stream.
func (l *outputLog) writer(from Origin) *lineWriter { return &lineWriter{log: l, from: from} }

// lineWriter cuts a byte stream into lines. It has one writer at a time.
type lineWriter struct {
	log  *outputLog
	from Origin
	rest []byte
}

// Write never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.keep(p)
			break
		}
		w.keep(p[:i])
		w.log.add(w.from, strings.TrimSuffix(string(w.rest), "\r"))
		w.rest = w.rest[:0]
		p = p[i+1:]
	}
	return n, nil
}

func (w *lineWriter) keep(p []byte) {
	w.rest = append(w.rest, p[:min(len(p), maxLineLen-len(w.rest))]...)
}

// flush adds a last line that has no newline.
func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.log.add(w.from, string(w.rest))
		w.rest = nil
	}
}
