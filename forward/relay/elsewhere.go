package relay

import (
	"context"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// keepEarly bounds what is kept of the bytes that a client sends before the
// answer: a TLS greeting or the head of a request, not an upload.
const keepEarly = 16 << 10

// tryAgain ends the text of a refusal that another try would not meet.
const tryAgain = "; the relay has taken note of it, try again"

// early keeps what was sent to an agent that has not answered. It goes on to the
// agent at once, so that the usual case costs no round trip; but an agent that
// refuses has given none of it to a pod, and so it can be sent to the right one
// again. Only a Locator that can be wrong makes this worth a copy.
type early struct {
	mu    sync.Mutex
	on    bool
	whole bool // nothing was too much
	bytes []byte
}

func (e *early) init(l Locator) {
	_, canForget := l.(Forgetter)
	e.on, e.whole = canForget, true
}

// keep takes a copy of b, unless that is too much.
func (e *early) keep(b []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.on {
		return
	}
	if len(e.bytes)+len(b) > keepEarly {
		e.on, e.whole, e.bytes = false, false, nil
		return
	}
	e.bytes = append(e.bytes, b...)
}

// all returns what was kept. It is false if that is not all there was.
func (e *early) all() ([]byte, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bytes, e.whole
}

// drop ends the keeping.
func (e *early) drop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.on, e.bytes = false, nil
}

// elsewhere looks for the pod once more after an agent's refusal, if that says
// that it was asked in the wrong place, and sends what the client has sent so far
// there. It is false if the stream must be cut; v says then what is to be told.
func (p *splice) elsewhere(ctx context.Context, v *verdict) bool {
	if !p.way.misplaced(v.code) {
		return false
	}
	if _, whole := p.early.all(); !whole {
		v.text += tryAgain
		return false
	}
	p.refuser.Store(p.down.src().Stream)
	agent, err := p.way.reach(ctx)
	if err != nil {
		v.code, v.text = stream.CodeOf(err), stream.TextOf(err)
		return false
	}
	return p.move(agent, v)
}

// move puts another agent in the place of the one that refused.
func (p *splice) move(agent end, v *verdict) bool {
	l := &p.up
	l.mu.Lock() // nobody writes to the old one now
	sent, whole := p.early.all()
	if !whole || p.fate.Load() != nil {
		l.mu.Unlock()
		_ = agent.Reset()
		v.text += tryAgain
		return false
	}
	old := l.to.Swap(&agent)
	p.down.from.Store(&agent)
	_ = agent.SetWriteDeadline(time.Now().Add(partingTime)) // it has credit for so much
	write := agent.Write
	if l.fin.Load() {
		write = agent.WriteLast
	}
	n, err := write(sent)
	l.torn = l.torn || err != nil && n > 0
	_ = agent.SetWriteDeadline(time.Time{})
	p.unlock(l)
	p.moved <- struct{}{} // once in the life of a stream
	_ = old.Close()
	if err != nil {
		*v = p.lostDestination(l, err)
		return false
	}
	return true
}
