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

func (st *Stream) setDeadline(deadline *atomic.Int64, waiter chan struct{}, t time.Time) error {
	if t.IsZero() {
		deadline.Store(0)
	} else {
		deadline.Store(t.UnixNano())
	}
	notify(waiter)
	return st.closedErr()
}

func late(deadline *atomic.Int64) bool {
	d := deadline.Load()
	return d != 0 && time.Now().UnixNano() >= d
}
