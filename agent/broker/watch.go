package broker

import (
	"net"
	"time"
)

// patient is how long a question may take before it is worth looking whether
// somebody still waits for the answer.
const patient = 20 * time.Millisecond

// watcher cancels a question that was given up.
type watcher struct {
	c     *net.UnixConn
	timer *time.Timer
	ended chan struct{} // the watcher's end, if it has begun
	err   error         // of the connection, once ended is closed
}

// watch watches over the question on c until end.
func watch(c *net.UnixConn, cancel func()) *watcher {
	w := &watcher{c: c, ended: make(chan struct{})}
	w.timer = time.AfterFunc(patient, func() {
		defer close(w.ended)
		_, w.err = c.Read(make([]byte, 1))
		if isTimeout(w.err) {
			w.err = nil // end did that
			return
		}
		if w.err == nil {
			w.err = errMalformed // the next question before the answer
		}
		cancel()
	})
	return w
}

// end ends the watch. The error says that nobody waits for the answer.
func (w *watcher) end() error {
	if w.timer.Stop() {
		return nil
	}
	_ = w.c.SetReadDeadline(time.Unix(1, 0))
	<-w.ended
	if w.err != nil {
		return w.err
	}
	return w.c.SetReadDeadline(time.Time{})
}
