package tunnel

import (
	"errors"
	"fmt"
	"time"
)

// ErrDead is why a session ended whose peer answered nothing.
var ErrDead = errors.New("peer does not answer")

// liveness decides whether the peer is gone. Any byte that comes in is life.
// After a silence one ping goes out; the peer is given time to answer from the
// moment its kernel has acknowledged the ping, and until then as long as the
// way to it makes progress. So a link that is slow, with much queued before
// the ping, lives on, and one that swallows everything does not.
type liveness struct {
	cfg Config
	car *Carrier
	in  *inbound
	out *outbound

	asked     bool
	askedAt   int64 // position of the ping in what is queued
	onWireAt  int64 // position of the ping on the wire, 0: not known yet
	delivered bool
	since     time.Time // when the clock that counts now was started
	acked     int64     // progress seen last
	sent      int64
	ticked    time.Time

	said   int64 // what was queued when this end last said anything
	saidAt time.Time
}

func (l *liveness) tick(now time.Time) error {
	queued, sent := l.out.progress()
	stopped := now.Sub(l.ticked) > l.cfg.DeadAfter/2
	l.ticked = now
	if queued != l.said {
		l.said, l.saidAt = queued, now
	}
	if l.in.silence() < l.cfg.PingAfter {
		l.asked = false
		// Whoever sends much into deep queues asks in vain behind them. It
		// hears from this end unasked as long as anything arrives here.
		if now.Sub(l.saidAt) >= l.cfg.PingAfter {
			l.out.inject(muxControl(typePing, flagACK, 0, 0))
		}
		return nil
	}
	if !l.asked || stopped { // this process was stopped: what came meanwhile is not read yet
		if !l.asked {
			queued = l.out.inject(muxControl(typePing, flagSYN, 0, 0))
		}
		*l = liveness{
			cfg: l.cfg, car: l.car, in: l.in, out: l.out,
			asked: true, askedAt: queued, since: now, sent: sent,
			ticked: now, said: queued, saidAt: now,
		}
		return nil
	}
	l.progress(now, sent)
	if now.Sub(l.since) <= l.cfg.DeadAfter {
		return nil
	}
	if l.delivered {
		return fmt.Errorf("%w for %s", ErrDead, l.in.silence().Round(time.Second))
	}
	return fmt.Errorf("%w and takes nothing for %s", ErrDead, l.in.silence().Round(time.Second))
}

// progress restarts the clock while what lies before the ping still moves.
func (l *liveness) progress(now time.Time, sent int64) {
	if l.delivered {
		return
	}
	wire := l.car.rec.written.Load()
	kept := l.car.rec.kept.Load()
	acked, left, known := delivery(l.car.raw)
	if sent > l.sent || acked > l.acked {
		l.since = now
	}
	l.sent = sent
	l.acked = acked
	if sent < l.askedAt {
		return
	}
	if l.onWireAt == 0 {
		l.onWireAt = wire + kept
	}
	if !known || wire-left >= l.onWireAt {
		l.delivered = true
		l.since = now
	}
}
