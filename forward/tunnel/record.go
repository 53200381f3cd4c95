package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	readAhead   = 128 << 10 // one read(2) takes many TLS records
	smallRead   = 4 << 10   // a read below this is no bulk
	calmReads   = 8         // this many small reads in a row give the read-ahead buffer back
	gatherLimit = 256 << 10
)

// recordConn lies beneath TLS. crypto/tls writes and reads record by record,
// one system call for each 16 KiB; this gathers the records of one flush into
// one write and reads ahead while bulk data comes in. And it can write without
// waiting: what the kernel does not take then stays, sealed as it is, and goes
// first the next time.
type recordConn struct {
	net.Conn

	written atomic.Int64 // bytes handed to the kernel
	kept    atomic.Int64 // bytes that tryFlush could not hand to it

	// onWait, if not nil, is called by the reader before it may have to wait for
	// the connection. Set before use.
	onWait func()

	wmu    sync.Mutex
	holds  bool
	gather []byte
	raw    syscall.RawConn // nil: every write may wait
	try    func(fd uintptr) bool
	tried  int // what try wrote

	// One reader at a time: crypto/tls serialises its reads.
	ahead []byte // nil unless bulk data comes in
	r, w  int
	calm  int
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

func (c *recordConn) Read(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.ahead[c.r:c.w])
		c.r += n
		return n, nil
	}
	if c.onWait != nil {
		c.onWait()
	}
	if c.ahead == nil || len(p) >= len(c.ahead) {
		n, err := c.Conn.Read(p)
		if n == len(p) && n >= smallRead {
			c.ahead, c.calm = make([]byte, readAhead), 0
		}
		return n, err
	}
	n, err := c.Conn.Read(c.ahead)
	if n < smallRead {
		c.calm++
	} else {
		c.calm = 0
	}
	m := copy(p, c.ahead[:n])
	c.r, c.w = m, n
	if c.calm >= calmReads && c.r == c.w {
		c.ahead, c.r, c.w = nil, 0, 0
	}
	if m > 0 {
		return m, nil // an error comes again with the next read
	}
	return 0, err
}
