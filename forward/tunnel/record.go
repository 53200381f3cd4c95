package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	gatherLimit = 256 << 10
	// unaskedLimit bounds what TLS may have written by itself to a peer that asks and
	// reads no answer.
	unaskedLimit = 64 << 10
)

// recordConn lies beneath TLS. crypto/tls writes record by record, one system call
// for each 16 KiB; this gathers the records of one flush into one write. Reading
// needs no such help: TLS itself reads ahead what its buffer holds, and to read more
// at once costs a copy, which costs more than it saves. And it can write without
// waiting: what the kernel does not take then stays, sealed as it is, and goes
// first the next time.
type recordConn struct {
	net.Conn

	written atomic.Int64 // bytes handed to the kernel
	kept    atomic.Int64 // bytes that tryFlush could not hand to it

	// onWait, if not nil, is called by the reader before it may have to wait for
	// the connection. Set before use.
	onWait func()

	wmu     sync.Mutex
	holds   bool
	owned   bool // who holds and flushes writes all there is, and nothing else may wait
	gather  []byte
	unasked int             // bytes of gather that nobody who holds has written, at most
	raw     syscall.RawConn // nil: every write may wait
	try     func(fd uintptr) bool
	tried   int // what try wrote
}

func newRecordConn(c net.Conn) *recordConn {
	rc := &recordConn{Conn: c}
	if t, ok := c.(*net.TCPConn); ok && canTryWrite {
		if raw, err := t.SyscallConn(); err == nil {
			rc.raw = raw
			rc.try = func(fd uintptr) bool { rc.tried = tryWrite(fd, rc.gather); return true }
		}
	}
	return rc
}

// NetConn returns the connection beneath, as tls.Conn does: who was handed the TLS
// connection can reach the socket.
func (c *recordConn) NetConn() net.Conn { return c.Conn }

// prompt tells whether tryFlush never waits.
func (c *recordConn) prompt() bool { return c.raw != nil }

// hold keeps records back until flush or tryFlush.
func (c *recordConn) hold() {
	c.wmu.Lock()
	c.holds = true
	c.wmu.Unlock()
}

// flush writes what was kept back.
func (c *recordConn) flush() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.holds = false
	return c.writeGathered()
}

// own says that from now on whoever has something to write holds and flushes. What
// TLS writes by itself, when its peer wants other keys, then does not wait: it would
// do so with the lock of TLS, and tryFlush would wait with it.
func (c *recordConn) own() {
	c.wmu.Lock()
	c.owned = c.raw != nil
	c.wmu.Unlock()
}

// tryFlush writes as much of what was kept back as can be done without waiting,
// and tells whether anything is left for flush to do, errors among it. Unless the
// connection is prompt, it waits all the same.
func (c *recordConn) tryFlush() (left bool) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.holds = false
	if c.raw == nil {
		return c.writeGathered() != nil
	}
	return c.tryGathered()
}

// tryGathered writes what can be written without waiting. Called with wmu held.
func (c *recordConn) tryGathered() (left bool) {
	if len(c.gather) == 0 {
		return false
	}
	c.tried = 0
	_ = c.raw.Write(c.try) // flush meets the error again
	c.written.Add(int64(c.tried))
	c.gather = c.gather[:copy(c.gather, c.gather[c.tried:])]
	c.kept.Store(int64(len(c.gather)))
	return len(c.gather) > 0
}

func (c *recordConn) writeGathered() error {
	if len(c.gather) == 0 {
		return nil
	}
	n, err := c.Conn.Write(c.gather)
	c.written.Add(int64(n))
	c.gather = c.gather[:0]
	c.kept.Store(0)
	return err
}

// trim gives the gathering buffer back; it comes again with the next bulk.
func (c *recordConn) trim() {
	c.wmu.Lock()
	if len(c.gather) == 0 {
		c.gather = nil
	}
	c.wmu.Unlock()
}

func (c *recordConn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if !c.holds && c.owned {
		if len(c.gather) == 0 {
			c.unasked = 0
		}
		if c.unasked += len(p); c.unasked > unaskedLimit {
			return 0, errUnread
		}
		c.gather = append(c.gather, p...)
		c.tryGathered()
		return len(p), nil
	}
	if !c.holds {
		if err := c.writeGathered(); err != nil {
			return 0, err
		}
		n, err := c.Conn.Write(p)
		c.written.Add(int64(n))
		return n, err
	}
	c.gather = append(c.gather, p...)
	if len(c.gather) >= gatherLimit {
		if err := c.writeGathered(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Read reads as much as TLS has room for: some 40 KiB once bulk data came in, and so
// several records.
func (c *recordConn) Read(p []byte) (int, error) {
	if c.onWait != nil {
		c.onWait()
	}
	return c.Conn.Read(p)
}
