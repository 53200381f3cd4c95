package audit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// batch is how much is written at once, in bytes, if so much waits.
	batch = 64 << 10
	// lookEvery is how often it is seen whether the file is still in its place, how
	// often what was written goes to the disk itself, and how soon what failed is
	// tried again.
	lookEvery = time.Second
)

// writer is the one goroutine that writes.
type writer struct {
	log  *Log
	out  io.Writer // a file, unless Config.Out is given
	file *os.File  // out, if it is ours; nil while it cannot be opened

	buf   []byte // whole lines that were not written yet, or not wholly
	sent  int    // how much of buf has been
	dirty bool   // the disk has not everything
}

// run writes until quit, then what is left.
func (w *writer) run() {
	defer w.end()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		waiting := w.log.queue
		if len(w.buf) > 0 { // it failed; first things first
			waiting = nil
		}
		select {
		case e := <-waiting:
			w.collect(e)
			w.flush()
		case <-look.C:
			w.look()
		case <-w.log.reopen:
			w.replace()
			w.flush()
		case <-w.log.quit:
			return
		}
	}
}

// collect makes lines of e and of what waits behind it.
func (w *writer) collect(e *entry) {
	relay := ""
	if p := w.log.relay.Load(); p != nil {
		relay = *p
	}
	for {
		w.buf = appendLine(w.buf, relay, e)
		if len(w.buf) >= batch {
			return
		}
		select {
		case e = <-w.log.queue:
		default:
			return
		}
	}
}

// flush writes buf. What could not be written stays there.
func (w *writer) flush() {
	if w.out == nil {
		return // replace has told why
	}
	for w.sent < len(w.buf) {
		over := w.log.begins()
		n, err := w.out.Write(w.buf[w.sent:])
		over()
		if n > 0 {
			w.log.written.Add(bytes.Count(w.buf[w.sent:w.sent+n], []byte("\n")))
			w.sent += n
			w.dirty = true
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			w.fault(fmt.Errorf("write audit log: %w", err))
			return
		}
	}
	w.buf, w.sent = w.buf[:0], 0
	if cap(w.buf) > 4*batch {
		w.buf = nil
	}
	w.fault(nil)
}

// look does what is due from time to time.
func (w *writer) look() {
	if w.log.cfg.Path != "" && !w.inPlace() {
		w.replace()
	}
	if len(w.buf) > 0 || w.log.fault.Load() != nil {
		w.flush() // with nothing to write it may still be told that all is well again
	}
	if w.dirty && w.file != nil {
		over := w.log.begins()
		err := w.file.Sync()
		over()
		if err != nil {
			w.fault(fmt.Errorf("write audit log to the disk: %w", err))
			return
		}
	}
	w.dirty = false
}

// inPlace tells whether the path is still that of the file.
func (w *writer) inPlace() bool {
	if w.file == nil {
		return false
	}
	there, err := os.Stat(w.log.cfg.Path)
	if err != nil {
		return false
	}
	ours, err := w.file.Stat()
	return err == nil && os.SameFile(there, ours)
}

// replace opens the path anew. While that fails, lines wait: a file that was moved
// away is somebody else's.
func (w *writer) replace() {
	if w.log.cfg.Path == "" {
		return
	}
	if w.file != nil {
		_ = w.file.Sync()
		_ = w.file.Close()
		w.file, w.out = nil, nil
	}
	if err := w.open(); err != nil {
		w.fault(err)
		return
	}
	// A line that was cut begins anew.
	w.sent = bytes.LastIndexByte(w.buf[:w.sent], '\n') + 1
}

func (w *writer) open() error {
	f, err := openFile(w.log.cfg.Path)
	if err != nil {
		return err
	}
	w.file, w.out = f, f
	return nil
}

// fault notes that writing fails, or does so no more.
func (w *writer) fault(err error) {
	before := w.log.fault.Load()
	if err == nil {
		w.log.fault.Store(nil)
	} else {
		w.log.fault.Store(&err)
	}
	if report := w.log.cfg.Report; report != nil {
		switch {
		case before == nil && err != nil:
			report(err)
		case before != nil && err == nil:
			report(nil)
		}
	}
}

// end writes what is left, once.
func (w *writer) end() {
	for {
		w.flush()
		if len(w.buf) > 0 {
			break
		}
		select {
		case e := <-w.log.queue:
			w.collect(e)
			continue
		default:
		}
		break
	}
	left := len(w.log.queue) + bytes.Count(w.buf[w.sent:], []byte("\n"))
	w.log.lost.Add(left)
	if w.file != nil {
		_ = w.file.Sync()
		_ = w.file.Close()
	}
}
