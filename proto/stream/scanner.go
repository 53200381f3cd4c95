package stream

import "sync/atomic"

// Scanner watches the frames of one direction go by in chunks cut anywhere, so
// that a relay can count and judge what it copies without re-framing it. The
// zero value is ready at the first byte after the Reply. It is for one goroutine;
// only Payload may be called from others.
type Scanner struct {
	payload atomic.Int64
	left    int // bytes of the current frame's payload still to come
	have    int // bytes of a header cut in two, in head
	head    [HeaderSize]byte
	current FrameType
	fin     bool
	gather  []byte // payload of a RESET, allocated when one comes
	reset   *Error
	err     error
}

// Scan looks at the next chunk and keeps nothing of it. An error means that the
// peer broke the protocol, an *Error is in its chain; it comes back from every
// later call. Scan allocates only when a RESET arrives.
func (s *Scanner) Scan(chunk []byte) error {
	data := int64(0)
	for s.err == nil && len(chunk) > 0 {
		if s.left == 0 {
			chunk = s.header(chunk)
			continue
		}
		n := min(s.left, len(chunk))
		s.left -= n
		if s.current == FrameData {
			data += int64(n)
		} else {
			s.reason(chunk[:n])
		}
		chunk = chunk[n:]
	}
	if data > 0 {
		s.payload.Store(s.payload.Load() + data) // one writer: no need for an add
	}
	return s.err
}

// header takes a header, or what there is of it, off chunk and returns the rest.
// After an error it returns nil: nothing can be known of what follows.
func (s *Scanner) header(chunk []byte) []byte {
	if s.reset != nil {
		return s.fail(malformed("bytes after RESET"))
	}
	head := chunk
	if s.have == 0 && len(chunk) >= HeaderSize {
		chunk = chunk[HeaderSize:]
	} else {
		n := copy(s.head[s.have:], chunk)
		s.have += n
		chunk = chunk[n:]
		if s.have < HeaderSize {
			return chunk
		}
		head, s.have = s.head[:], 0
	}
	t, n, err := ParseHeader(head)
	if err != nil {
		return s.fail(err)
	}
	if s.fin && t != FrameReset {
		return s.fail(malformed("%s after FIN", t))
	}
	s.current, s.left = t, n
	switch t {
	case FrameFin:
		s.fin = true
	case FrameReset:
		s.gather = make([]byte, 0, n)
	}
	return chunk
}

// fail makes err the result of this call and of all later ones.
func (s *Scanner) fail(err error) []byte {
	s.err = during("scan frames", err)
	return nil
}

// reason gathers the payload of a RESET.
func (s *Scanner) reason(p []byte) {
	s.gather = append(s.gather, p...)
	if s.left > 0 {
		return
	}
	reset, err := ParseReset(s.gather)
	s.gather = nil
	if err != nil {
		s.fail(err)
		return
	}
	s.reset = reset
}

// Plain reports whether chunk, were it scanned now, would bring data and nothing
// else: no end, no fault.
func (s *Scanner) Plain(chunk []byte) bool {
	if s.err != nil || s.have > 0 || s.fin || s.reset != nil || s.left > 0 && s.current != FrameData {
		return false
	}
	for left := s.left; ; {
		if left >= len(chunk) {
			return true
		}
		chunk = chunk[left:]
		if len(chunk) < HeaderSize {
			return false
		}
		t, n, err := ParseHeader(chunk)
		if err != nil || t != FrameData {
			return false
		}
		chunk, left = chunk[HeaderSize:], n
	}
}

// Payload returns the DATA bytes seen so far, headers not counted.
func (s *Scanner) Payload() int64 { return s.payload.Load() }

// Ended reports whether FIN or a whole RESET was seen: a direction that stops
// before that was cut.
func (s *Scanner) Ended() bool { return s.fin || s.reset != nil }

// Reset returns the reason of the RESET seen, nil if there was none. The caller
// must not change it.
func (s *Scanner) Reset() *Error { return s.reset }

// Partial reports whether the last chunk ended inside a frame: nothing may be
// put into the stream there.
func (s *Scanner) Partial() bool { return s.have > 0 || s.left > 0 }
