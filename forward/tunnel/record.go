package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
)

const (
	readAhead   = 128 << 10 // one read(2) takes many TLS records
	smallRead   = 4 << 10   // a read below this is no bulk
	calmReads   = 8         // this many small reads in a row give the read-ahead buffer back
	gatherLimit = 256 << 10
)

// recordConn lies beneath TLS. crypto/tls writes and reads record by record,
// one system call for each 16 KiB; this gathers the records of one flush into
// one write and reads ahead while bulk data comes in.
type recordConn struct {
	net.Conn

	written atomic.Int64 // bytes handed to the kernel

	wmu    sync.Mutex
	holds  bool
	gather []byte

	// One reader at a time: crypto/tls serialises its reads.
	ahead []byte // nil unless bulk data comes in
	r, w  int
	calm  int
}

// NetConn returns the connection beneath, as tls.Conn does: who was handed the TLS
// connection can reach the socket.
func (c *recordConn) NetConn() net.Conn { return c.Conn }

// hold keeps records back until flush.
func (c *recordConn) hold() {
	c.wmu.Lock()
	c.holds = true
	c.wmu.Unlock()
}

// flush writes what hold kept back.
func (c *recordConn) flush() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.holds = false
	return c.writeGathered()
}

func (c *recordConn) writeGathered() error {
	if len(c.gather) == 0 {
		return nil
	}
	n, err := c.Conn.Write(c.gather)
	c.written.Add(int64(n))
	c.gather = c.gather[:0]
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
