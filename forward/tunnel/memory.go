package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// smallChunk holds what a request or an answer is made of, bigChunk one full
	// TLS record, and with it one full frame. The header of the frame has its place
	// in front of what is to be read, so that a chunk can be sent on without a copy.
	smallChunk = 2 << 10
	bigChunk   = 16 << 10
)

// usualLimit is the Limit of a Memory that was given none.
const usualLimit = 512 << 20

// Memory is what the sessions of a process share: the buffers of what came in
// and was not read yet, how far the windows of streams may grow, and who has to go
// if all that is too much. The zero value is ready. It must not be copied.
type Memory struct {
	// Limit is how many bytes may wait to be read, of all streams, in the room that
	// they take. Windows grow by half of that at most, and shrink again from there on;
	// beyond it streams are cut: see Stream.Charge. 0 means 512 MiB. Set it before use.
	Limit int64

	// Beside returns the bytes in buffers of those who read and write the streams,
	// which count as well. It is asked often. nil: there are none. Set it before use.
	Beside func() int64

	small, big sync.Pool // of *chunk
	held       atomic.Int64
	grown      atomic.Int64
	relief     relief

	waiting atomic.Int64 // writers without credit
	waited  atomic.Int64 // nanoseconds, of waits that are over
}

// Usage is what the sessions of a Memory take, and wait for.
type Usage struct {
	// Grown is by how many bytes windows have grown, and GrownLimit by how many they may.
	Grown, GrownLimit int64
	// Unread is how many bytes wait to be read, and UnreadLimit how many may.
	Unread, UnreadLimit int64
	// Cut is how many streams were cut because that was not enough.
	Cut int64
	// Waiting is how many writers wait for credit: the reader at the other end is
	// slower than they are. Waited is for how long others did, all together.
	Waiting int64
	Waited  time.Duration
}

// Usage returns what is so now.
func (m *Memory) Usage() Usage {
	return Usage{
		Grown: m.grown.Load(), GrownLimit: m.limit() / 2, Unread: m.unread(), UnreadLimit: m.limit(), Cut: m.relief.cut.Load(),
		Waiting: m.waiting.Load(), Waited: time.Duration(m.waited.Load()),
	}
}

func (m *Memory) limit() int64 {
	if m.Limit > 0 {
		return m.Limit
	}
	return usualLimit
}

// unread is how much waits to be read. A first piece of 2 KiB of each stream is not
// counted: it costs no more than the stream itself.
func (m *Memory) unread() int64 {
	n := m.held.Load()
	if m.Beside != nil {
		n += m.Beside()
	}
	return n
}

// crowded tells whether it is time to be sparing.
func (m *Memory) crowded() bool { return m.unread() > m.limit()/2 }

// reserve lets a window grow by n bytes if there is room for that.
func (m *Memory) reserve(n int) bool {
	if m.crowded() {
		return false
	}
	if m.grown.Add(int64(n)) <= m.limit()/2 {
		return true
	}
	m.grown.Add(-int64(n))
	return false
}

func (m *Memory) release(n int) { m.grown.Add(-int64(n)) }

// chunk is a piece of what came in.
type chunk struct {
	next *chunk
	r, w int // what is in buf and not read yet; there are always muxHeader bytes before it
	buf  []byte
	held bool // it counts as held
}

// rest is what was not read yet.
func (c *chunk) rest() []byte { return c.buf[c.r:c.w] }

func (m *Memory) lend(size int) *chunk {
	pool := &m.small
	if size > smallChunk {
		pool, size = &m.big, bigChunk
	} else {
		size = smallChunk
	}
	if c, ok := pool.Get().(*chunk); ok {
		return c
	}
	return &chunk{buf: make([]byte, size), r: muxHeader, w: muxHeader}
}

// takeBack takes a chunk and all that follow it.
func (m *Memory) takeBack(c *chunk) {
	freed := 0
	for c != nil {
		next := c.next
		if c.held {
			c.held = false
			freed += len(c.buf)
		}
		c.next, c.r, c.w = nil, muxHeader, muxHeader
		if len(c.buf) == smallChunk {
			m.small.Put(c)
		} else {
			m.big.Put(c)
		}
		c = next
	}
	if freed > 0 {
		m.held.Add(-int64(freed))
	}
}

// inbox is the bytes that came in for a stream and wait to be read. Empty it
// holds no memory.
type inbox struct {
	mem        *Memory
	head, tail *chunk
	size       int
	room       int // what the chunks take
}

// put copies p in. It fills the last chunk before it takes another, so that
// however small the pieces are that a peer sends, they take no more than twice
// their room.
func (q *inbox) put(p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		if q.tail == nil || q.tail.w == len(q.tail.buf) {
			size := len(p)
			if q.tail != nil {
				size = bigChunk
			}
			q.attach(q.mem.lend(size))
		}
		n := copy(q.tail.buf[q.tail.w:], p)
		q.tail.w += n
		p = p[n:]
	}
}

// take puts a filled chunk in as it is. It is false if that would waste memory:
// then put is the way.
func (q *inbox) take(c *chunk) bool {
	if c.w-c.r < len(c.buf)/2 {
		return false
	}
	q.size += c.w - c.r
	q.attach(c)
	return true
}

func (q *inbox) attach(c *chunk) {
	q.room += len(c.buf)
	if len(c.buf) == bigChunk {
		c.held = true
		q.mem.held.Add(bigChunk)
	}
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
}

// detach takes whole chunks out, n bytes of them at most. It may return nil
// though there is something.
func (q *inbox) detach(n int) *chunk {
	var first, last *chunk
	for q.head != nil && q.head.w-q.head.r <= n {
		last = q.head
		if first == nil {
			first = last
		}
		n -= last.w - last.r
		q.size -= last.w - last.r
		q.room -= len(last.buf)
		q.head = last.next
	}
	if q.head == nil {
		q.tail = nil
	}
	if last != nil {
		last.next = nil
	}
	return first
}

// read copies out of the first chunk.
func (q *inbox) read(p []byte) int {
	c := q.head
	if c == nil {
		return 0
	}
	n := copy(p, c.rest())
	c.r += n
	q.size -= n
	if c.r == c.w {
		q.room -= len(c.buf)
		q.head = c.next
		if q.head == nil {
			q.tail = nil
		}
		c.next = nil
		q.mem.takeBack(c)
	}
	return n
}

// drop forgets everything.
func (q *inbox) drop() {
	q.mem.takeBack(q.head)
	q.head, q.tail, q.size, q.room = nil, nil, 0, 0
}
