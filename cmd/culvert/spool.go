package main

import (
	"io"
	"time"
)

const (
	// spoolLines is how many lines may wait for whoever reads them.
	spoolLines = 1024

	// spoolGrace is how long the end of the program waits for the last ones.
	spoolGrace = 500 * time.Millisecond
)

// spool writes lines about connections so that no connection waits for it: a
// script that reads the first line and then no more fills the pipe, and then
// further lines are dropped.
type spool struct {
	lines chan string
	done  chan struct{}
}

func newSpool() *spool {
	return &spool{lines: make(chan string, spoolLines), done: make(chan struct{})}
}

// run writes to w until close is called. A reader that is gone is no error.
func (s *spool) run(w io.Writer) {
	defer close(s.done)
	for line := range s.lines {
		_, _ = io.WriteString(w, line)
	}
}

func (s *spool) add(line string) {
	select {
	case s.lines <- line:
	default:
	}
}

// close must come after the last add. It waits for run, but not for ever: a
// write to a pipe that is full cannot be ended, only left behind.
func (s *spool) close() {
	close(s.lines)
	grace := time.NewTimer(spoolGrace)
	defer grace.Stop()
	select {
	case <-s.done:
	case <-grace.C:
	}
}
