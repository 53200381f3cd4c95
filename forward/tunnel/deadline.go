package tunnel

import (
	"sync/atomic"
	"time"
)

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error {
	if err := st.SetReadDeadline(t); err != nil {
		return err
	}
	return st.SetWriteDeadline(t)
}

// SetReadDeadline sets when a Read, also one under way, returns
// os.ErrDeadlineExceeded. The zero time means never.
func (st *Stream) SetReadDeadline(t time.Time) error {
	return st.setDeadline(&st.readBy, st.in.ready, t)
}

// SetWriteDeadline sets when a Write, also one under way, returns
// os.ErrDeadlineExceeded. The zero time means never.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	return st.setDeadline(&st.writeBy, st.out.room, t)
}

// deadline is when something is late, nil for never. It is kept as it was given,
// with its reading of the monotonic clock: a wall clock that is set must make
// nothing late.
type deadline = atomic.Pointer[time.Time]

func (st *Stream) setDeadline(by *deadline, waiter chan struct{}, t time.Time) error {
	if t.IsZero() {
		by.Store(nil)
	} else {
		by.Store(&t)
	}
	notify(waiter)
	return st.closedErr()
}

func late(by *deadline) bool {
	t := by.Load()
	return t != nil && !time.Now().Before(*t)
}
