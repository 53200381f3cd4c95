package forward

// buffer holds one frame: room for headers, then the payload. 65500 bytes round up to
// exactly eight pages of the allocator, so nothing is wasted.
type buffer [Headroom + MaxFrame]byte

// lend takes a buffer out of the pool.
func (j *Joiner) lend() *buffer {
	j.lent.Add(1)
	if b, ok := j.pool.Get().(*buffer); ok {
		return b
	}
	return new(buffer)
}

// takeBack puts a buffer into the pool.
func (j *Joiner) takeBack(b *buffer) {
	j.pool.Put(b)
	j.lent.Add(-1)
}

// Held returns how many bytes the buffers take that are in use at the moment.
func (j *Joiner) Held() int64 {
	return j.lent.Load() * int64(len(buffer{}))
}

// Lent returns how many buffers of about 64 KiB are in use at the moment, by all Joins of j. A pair of
// idle connections that can wait without a buffer uses none. It may be called at any time.
func (j *Joiner) Lent() int64 {
	return j.lent.Load()
}
