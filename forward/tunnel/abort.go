package tunnel

import (
	"errors"
	"net"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Reset aborts the connection. The peer reads the code and the text of the
// cause after what was written before, unless that cannot be told any more.
func (c *Conn) Reset(cause error) error {
	err := forward.ResetBy(cause)
	if !c.aborted.CompareAndSwap(nil, &err) {
		return nil
	}
	_ = c.st.SetDeadline(time.Unix(1, 0)) // lets a reader and a writer go
	c.tellAbort()
	return nil
}

// unlock releases the writer's lock and does what a Reset could not do
// meanwhile.
func (c *Conn) unlock() {
	c.wmu.Unlock()
	if c.aborted.Load() != nil {
		c.tellAbort()
	}
}

// tellAbort sends the frame that says why and ends the stream. A writer that
// holds the lock does it when it lets go.
func (c *Conn) tellAbort() {
	if !c.wmu.TryLock() {
		return
	}
	defer c.wmu.Unlock()
	if c.toldEnd {
		return
	}
	c.toldEnd = true
	if c.ended.Load() {
		// The direction that could carry a word has ended: only a bare reset
		// is left.
		_ = c.st.Reset()
		return
	}
	if !c.broken {
		code, text := c.reason(*c.aborted.Load())
		// The deadline has passed: it is sent if there is credit for it.
		_, _ = c.st.push(stream.AppendReset(nil, code, text))
	}
	_ = c.st.Close()
}

func (c *Conn) reason(cause error) (stream.Code, string) {
	if coded := (*stream.Error)(nil); errors.As(cause, &coded) {
		return coded.Code, coded.Text
	}
	code := c.AbortCode
	if code == stream.OK {
		code = stream.Canceled
	}
	if known := stream.CodeOf(cause); known != stream.Internal {
		code = known
	}
	return code, cause.Error()
}

// Close releases the connection. Unless both directions have ended it is
// Reset(net.ErrClosed).
func (c *Conn) Close() error {
	if !c.ended.Load() || !c.gotFin.Load() {
		return c.Reset(net.ErrClosed)
	}
	err := net.ErrClosed
	if !c.aborted.CompareAndSwap(nil, &err) {
		return nil
	}
	c.wmu.Lock() // no writer waits any more: its direction has ended
	c.toldEnd = true
	c.wmu.Unlock()
	return c.st.Close()
}
