package tunnel

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// reliefPause is how long nobody looks again: it takes a while if there are many streams.
const reliefPause = 10 * time.Millisecond

// relief knows the sessions of a Memory.
type relief struct {
	cut atomic.Int64 // streams, so far

	turn sync.Mutex // held by whoever cuts
	last time.Time  // under turn

	mu       sync.Mutex
	sessions map[*Session]struct{}
}

func (r *relief) enter(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions == nil {
		r.sessions = make(map[*Session]struct{})
	}
	r.sessions[s] = struct{}{}
}

func (r *relief) leave(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
}

// charge says on whose account a stream is. Under the stream's mu.
type charge struct {
	who  string // empty: the session
	cut  func() // nil: the stream is reset
	done bool   // it was cut
}

// Charge says on whose account is what comes in and is not read, and how the
// stream is cut when all that is more than Memory.Limit: of who holds most, what
// holds most goes first. So whoever lets it lie cannot crowd out others, however many
// streams and sessions he has. cut is called once at most and must not wait. A stream that
// nobody is charged with is on the account of its session, and is reset.
func (st *Stream) Charge(who string, cut func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.charge.who, st.charge.cut = who, cut
}

// waitsWith notes that a writer waits, whose buffer takes so much.
func (st *Stream) waitsWith(room int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.out.waiting = room
}

// holding is a stream and what it holds.
type holding struct {
	st   *Stream
	room int
}

// holds tells what a stream holds and who is charged with it: a user's name, or the
// session.
func (st *Stream) holds() (holding, any) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.charge.done {
		return holding{}, nil // it is on its way out
	}
	h := holding{st, st.in.box.room + st.in.taken + st.out.waiting}
	if st.charge.who == "" {
		return h, st.sess
	}
	return h, st.charge.who
}

// giveUp cuts a stream.
func (st *Stream) giveUp() {
	st.mu.Lock()
	cut := st.charge.cut
	st.charge.done = true
	st.mu.Unlock()
	if cut == nil {
		_ = st.Reset()
		return
	}
	cut()
}

// account is what one holds.
type account struct {
	room    int
	streams []holding // those that hold most come last
}

// relieve cuts streams if more waits to be read than may. It is called often, and
// waits for nobody.
func (m *Memory) relieve() {
	r := &m.relief
	if m.unread() <= m.limit() || !r.turn.TryLock() {
		return
	}
	defer r.turn.Unlock()
	now := time.Now()
	if now.Sub(r.last) < reliefPause {
		return
	}
	r.last = now
	total, accounts := r.accounts()
	for enough := int(m.limit() - m.limit()/4); total > enough; {
		most := slices.MaxFunc(accounts, func(a, b *account) int { return cmp.Compare(a.room, b.room) })
		h := most.streams[len(most.streams)-1]
		most.streams = most.streams[:len(most.streams)-1]
		most.room -= h.room
		total -= h.room
		h.st.giveUp()
		r.cut.Add(1)
	}
}

// accounts returns what all hold together, and each.
func (r *relief) accounts() (total int, all []*account) {
	of := make(map[any]*account)
	for _, st := range r.streams() {
		h, who := st.holds()
		if h.room == 0 {
			continue
		}
		a := of[who]
		if a == nil {
			a = new(account)
			of[who] = a
			all = append(all, a)
		}
		a.streams = append(a.streams, h)
		a.room += h.room
		total += h.room
	}
	for _, a := range all {
		slices.SortFunc(a.streams, func(a, b holding) int { return cmp.Compare(a.room, b.room) })
	}
	return total, all
}

func (r *relief) streams() (all []*Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sessions {
		s.mu.Lock()
		for _, st := range s.streams {
			all = append(all, st)
		}
		s.mu.Unlock()
	}
	return all
}
