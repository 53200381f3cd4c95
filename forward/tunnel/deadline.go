package tunnel

import (
	"fmt"
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
	return st.setDeadline(&st.readBy, st.ys.SetReadDeadline, t)
}

// SetWriteDeadline sets when a Write, also one under way, returns
// os.ErrDeadlineExceeded. The zero time means never.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	return st.setDeadline(&st.writeBy, st.ys.SetWriteDeadline, t)
}

func (st *Stream) setDeadline(deadline *atomic.Int64, set func(time.Time) error, t time.Time) error {
	if t.IsZero() {
		deadline.Store(0)
	} else {
		deadline.Store(t.UnixNano())
	}
	if err := set(t); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if st.state.Load() != streamOpen || st.sess.dead.Load() != nil {
		_ = set(time.Unix(1, 0)) // nobody may wait here any more
		return st.closedErr()
	}
	return nil
}

func late(deadline *atomic.Int64) bool {
	d := deadline.Load()
	return d != 0 && time.Now().UnixNano() >= d
}
