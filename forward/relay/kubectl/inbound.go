package kubectl

import (
	"sync"
	"sync/atomic"
	"time"
)

// blockSize is what a pool hands out: the payload of one TLS record.
const blockSize = 16 << 10

type block [blockSize]byte

// ownRoom is what a session may hold however much the others do: enough to go on,
// slowly. It is whole blocks.
const ownRoom = 4 * blockSize

// budget bounds what all sessions of a Handler hold beyond what is each one's own.
// One user may have many sessions, and many pods that read nothing.
type budget struct {
	limit int64 // bytes
	used  atomic.Int64
}

// store holds what a session has read and its pods have not taken. The blocks come
// from a pool that all sessions share.
type store struct {
	pool   *sync.Pool // of *block
	limit  int        // bytes
	used   atomic.Int64
	shared *budget

	waiting atomic.Bool   // the session's reader waits for room
	freed   chan struct{} // holds one token: there may be some
}

func newStore(pool *sync.Pool, limit int, shared *budget) *store {
	return &store{pool: pool, limit: limit, shared: shared, freed: make(chan struct{}, 1)}
}

func (s *store) lend() *block {
	if s.used.Add(blockSize) > ownRoom {
		s.shared.used.Add(blockSize)
	}
	if b, ok := s.pool.Get().(*block); ok {
		return b
	}
	return new(block)
}

func (s *store) takeBack(b *block) {
	s.pool.Put(b)
	if s.used.Add(-blockSize) >= ownRoom {
		s.shared.used.Add(-blockSize)
	}
}

// full reports whether no further block may be lent.
func (s *store) full() bool {
	next := s.used.Load() + blockSize
	return next > int64(s.limit) || next > ownRoom && s.shared.used.Load()+blockSize > s.shared.limit
}

// nudge tells a waiting reader to look again.
func (s *store) nudge() {
	if s.waiting.Load() {
		select {
		case s.freed <- struct{}{}:
		default:
		}
	}
}

// queue is the data of one stream that was read and not taken yet: blocks that
// are full but for the first one's beginning and the last one's end. Its owner
// locks it.
type queue struct {
	store  *store
	blocks []*block
	r, w   int // where to read in the first block, where to write in the last
	size   int // bytes to read

	filling bool      // the last block is being written to and stays
	moved   time.Time // when something was taken last, or when the first byte came
}

// space returns room at the end for at most one block and keeps it until filled is
// called. It returns nil if a new block is needed and the store has none.
func (q *queue) space() []byte {
	if len(q.blocks) == 0 || q.w == blockSize {
		if q.store.full() {
			return nil
		}
		q.blocks = append(q.blocks, q.store.lend())
		q.w = 0
	}
	q.filling = true
	return q.blocks[len(q.blocks)-1][q.w:]
}

// filled says that n bytes of the last space are data.
func (q *queue) filled(n int) {
	q.filling = false
	if n > 0 && q.size == 0 {
		q.moved = time.Now()
	}
	q.w += n
	q.size += n
	if q.size == 0 {
		q.drop()
	}
}

// take moves data into p.
func (q *queue) take(p []byte) int {
	total := 0
	for total < len(p) && q.size > 0 {
		end := blockSize
		if len(q.blocks) == 1 {
			end = q.w
		}
		n := copy(p[total:], q.blocks[0][q.r:end])
		total += n
		q.r += n
		q.size -= n
		if q.r == blockSize {
			q.shift()
		}
	}
	if q.size == 0 && !q.filling {
		q.drop()
	}
	if total > 0 {
		q.moved = time.Now()
	}
	return total
}

// shift gives back the first block, which has been read to its end. That is never
// the one being written to, which has room left.
func (q *queue) shift() {
	q.store.takeBack(q.blocks[0])
	q.blocks = q.blocks[:copy(q.blocks, q.blocks[1:])]
	q.r = 0
}

// drop forgets all data, but for a block that is being written to.
func (q *queue) drop() {
	keep := 0
	if q.filling {
		keep = 1
	}
	n := len(q.blocks) - keep
	for _, b := range q.blocks[:n] {
		q.store.takeBack(b)
	}
	copy(q.blocks, q.blocks[n:])
	clear(q.blocks[keep:])
	q.blocks = q.blocks[:keep]
	if keep == 0 {
		q.w = 0
	}
	q.r, q.size = q.w, 0
}
