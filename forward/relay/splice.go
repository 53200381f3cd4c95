package relay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// partingTime bounds what is left of a stream that was cut: an end that takes
// nothing is not waited for longer.
const partingTime = 5 * time.Second

// hurriedTime is that of a stream that holds what others need.
const hurriedTime = 100 * time.Millisecond

// end is one end of a stream through the relay, and the session it is on.
type end struct {
	*tunnel.Stream
	sess *tunnel.Session
}

// splice is a stream on its way through the relay: the same bytes on two
// streams. Each direction has a goroutine that copies it. Both directions
// finish, or the first thing that goes wrong cuts both: then each end is told
// why, and ended.
type splice struct {
	srv      *Server
	flow     *flow
	way      *way
	early    early
	refuser  atomic.Pointer[tunnel.Stream] // an agent that said no: what it does then means nothing
	moved    chan struct{}                 // tells watch of another agent; holds one
	up, down leg                           // client to agent, agent to client
	fate     atomic.Pointer[verdict]       // how it ended; set once
	over     chan struct{}                 // closed after fate was set
	all      sync.WaitGroup
}

// leg is one direction. The agent's end of it may be replaced until it has
// answered.
type leg struct {
	from, to atomic.Pointer[end]
	seen     *stream.Scanner
	node     *flow // whose node is the source; nil: the client is
	lost     stream.Code
	count    interface{ Add(int) }

	give func([]byte) int // passes what comes in small pieces, without waiting

	open atomic.Bool // dst has its Reply: frames may follow
	fin  atomic.Bool // FIN was passed on

	mu    sync.Mutex // held while dst is written to
	torn  bool       // dst stands inside a frame
	reset bool       // RESET was passed on
	ended bool       // dst was told that the stream is cut, and ended
}

func (l *leg) src() *end { return l.from.Load() }
func (l *leg) dst() *end { return l.to.Load() }

// name is that of the source.
func (l *leg) name() string {
	if l.node == nil {
		return "client"
	}
	return "node " + l.node.place().Node
}

// splice copies between client and agent and takes both over. It returns when
// both directions have ended.
func (s *Server) splice(ctx context.Context, w *way, client, agent end) verdict {
	f := w.flow
	p := &splice{srv: s, flow: f, way: w, over: make(chan struct{}), moved: make(chan struct{}, 1)}
	p.up.seen, p.up.lost, p.up.count = &f.up, stream.Canceled, s.metrics.up
	p.down.seen, p.down.lost, p.down.count, p.down.node = &f.down, stream.Unreachable, s.metrics.down, f
	p.up.from.Store(&client)
	p.down.to.Store(&client)
	p.up.to.Store(&agent)
	p.down.from.Store(&agent)
	p.up.open.Store(true)
	p.up.give = func(b []byte) int { return p.tryPass(&p.up, b) }
	p.down.give = func(b []byte) int { return p.tryPass(&p.down, b) }
	p.early.init(s.cfg.Locate)
	watching := later(func() { p.watch(ctx) })
	if client.Ready() { // it goes with the Open
		p.first()
	}
	p.all.Go(func() { p.carry(&p.up, &p.down) })
	if p.answer(ctx) {
		p.carry(&p.down, &p.up)
	}
	p.all.Wait()
	watching.end()
	v := *p.fate.Load()
	if v.code != stream.OK {
		p.tell(&p.up)
		p.tell(&p.down)
	}
	return v
}

// first passes on what the client sent behind its Open.
func (p *splice) first() {
	if err := p.read(&p.up, p.pass, nil); err != nil {
		p.abort(lostSource(&p.up, err))
	}
}

// carry copies one direction until it has ended. back is the other one.
func (p *splice) carry(l, back *leg) {
	for !l.fin.Load() {
		if err := p.read(l, p.pass, l.give); err != nil {
			p.abort(lostSource(l, err))
			return
		}
		if p.fate.Load() != nil {
			return
		}
	}
	if back.fin.Load() {
		p.finish()
		return
	}
	p.linger(l)
}

// read waits for bytes from the source and gives them to take. Nothing is held
// while it waits. Small pieces that come in meanwhile go to give, unless that is nil.
func (p *splice) read(l *leg, take func(*leg, *tunnel.Pieces), give func([]byte) int) error {
	b, err := l.src().ReadPieces(give)
	if err != nil {
		return err
	}
	take(l, &b)
	b.Release()
	return nil
}

// scan has the scanner of a leg look at what goes by.
func (l *leg) scan(b *tunnel.Pieces) error {
	for piece := range b.All() {
		if err := l.seen.Scan(piece); err != nil {
			return err
		}
	}
	return nil
}

// pass hands on what was read.
func (p *splice) pass(l *leg, b *tunnel.Pieces) {
	l.mu.Lock()
	v, cut := p.passLocked(l, b)
	p.unlock(l)
	if cut {
		p.abort(v)
	}
}

func (p *splice) passLocked(l *leg, b *tunnel.Pieces) (v verdict, cut bool) {
	if p.fate.Load() != nil {
		return v, false // what else comes is dropped
	}
	before := l.seen.Payload()
	err := l.scan(b)
	l.count.Add(int(l.seen.Payload() - before))
	if err != nil {
		// torn says where dst stands: these bytes do not get there.
		return verdict{code: stream.CodeOf(err), text: l.name() + " broke the protocol: " + stream.TextOf(err)}, true
	}
	reset := l.seen.Reset()
	if reset != nil {
		// Before the one it goes to can hang up on it: that is only an echo.
		v = verdict{code: reset.Code, text: reset.Text, by: l}
		if !p.settle(v) {
			return v, false
		}
	}
	if l == &p.up {
		for piece := range b.All() {
			p.early.keep(piece)
		}
	}
	dst := l.dst()
	write := dst.WritePieces
	if l.seen.Ended() {
		write = dst.WriteLastPieces
	}
	if n, err := write(b); err != nil && p.refuser.Load() != dst.Stream {
		l.torn = l.torn || n > 0
		if reset == nil {
			v = p.lostDestination(l, err)
		}
	} else {
		l.torn = l.seen.Partial()
		l.reset = reset != nil
		l.fin.Store(l.seen.Ended() && reset == nil)
	}
	return v, v.code != stream.OK
}

// linger stays with a source that has finished until the other direction has
// ended too: it may still abort. That it is lost is for watch to see.
func (p *splice) linger(l *leg) {
	for p.fate.Load() == nil {
		if p.read(l, p.afterFin, nil) != nil {
			<-p.over
		}
	}
}

// watch sees what no read and no write would tell: that an end is gone while
// nothing is read from it, since it has finished, or since the other end is
// slow.
func (p *splice) watch(ctx context.Context) {
	client, agent := p.up.src(), p.down.src()
	clientLost, agentLost, agentGone := client.sess.Done(), agent.sess.Done(), agent.Gone()
	for {
		select {
		case <-p.over:
			return
		case <-ctx.Done():
			cause := context.Cause(ctx)
			p.abort(verdict{code: stream.CodeOf(cause), text: stream.TextOf(cause), hurry: errors.Is(cause, errCrowds)})
		case <-client.Gone():
			p.abort(lostSource(&p.up, forward.ErrReset))
		case <-p.moved:
			agent = p.down.src()
			agentLost, agentGone = agent.sess.Done(), agent.Gone()
		case <-agentGone:
			agentGone = nil
			if p.refuser.Load() != agent.Stream {
				p.abort(lostSource(&p.down, forward.ErrReset))
			}
		case <-clientLost:
			clientLost = nil
			p.unlessFinished(&p.down, lostSource(&p.up, client.sess.Err()))
		case <-agentLost:
			agentLost = nil
			if p.refuser.Load() != agent.Stream {
				p.unlessFinished(&p.up, lostSource(&p.down, agent.sess.Err()))
			}
		}
	}
}

// unlessFinished aborts if the destination of a leg was lost before the end of
// that leg could be passed to it. If it had that, it may well have hung up for
// good, and what it sent before is still there to be read.
func (p *splice) unlessFinished(l *leg, v verdict) {
	l.mu.Lock() // whoever writes to a session that is lost does not do so for long
	finished := l.fin.Load()
	p.unlock(l)
	if !finished {
		p.abort(v)
	}
}

// afterFin judges what comes after FIN. Only RESET may.
func (p *splice) afterFin(l *leg, b *tunnel.Pieces) {
	if err := l.scan(b); err != nil {
		p.abort(verdict{code: stream.CodeOf(err), text: l.name() + " broke the protocol: " + stream.TextOf(err)})
	} else if r := l.seen.Reset(); r != nil {
		p.abort(verdict{code: r.Code, text: r.Text, by: l})
	}
}

// settle sets the fate of the stream. It is false if that was set before.
func (p *splice) settle(v verdict) bool {
	v.until = time.Now().Add(partingTime)
	if v.hurry {
		v.until = time.Now().Add(hurriedTime)
	}
	if !p.fate.CompareAndSwap(nil, &v) {
		return false
	}
	close(p.over)
	return true
}

// finish ends a stream whose directions have both finished.
func (p *splice) finish() {
	if p.settle(verdict{code: stream.OK}) {
		_ = p.up.src().Close() // lets linger go
		_ = p.up.dst().Close()
	}
}

// abort cuts both directions, unless both have finished before. What cut them
// first stays the reason.
func (p *splice) abort(v verdict) {
	p.settle(v)
	if p.fate.Load().code != stream.OK {
		p.tell(&p.up)
		p.tell(&p.down)
	}
}

// unlock lets dst of a leg go, and does what abort could not do meanwhile.
func (p *splice) unlock(l *leg) {
	l.mu.Unlock()
	if v := p.fate.Load(); v != nil && v.code != stream.OK {
		p.tell(l)
	}
}

// tell ends the destination of a leg of a stream that was cut. If somebody
// writes to it, that one does it when it lets go, and gets until then.
func (p *splice) tell(l *leg) {
	v := p.fate.Load()
	if !l.mu.TryLock() {
		_ = l.dst().SetWriteDeadline(v.until)
		return
	}
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	dst := l.dst()
	told := l.reset || v.by != nil && v.by != l // the one it came from needs no word
	if !told && !l.torn && !l.fin.Load() {
		_ = dst.SetWriteDeadline(v.until)
		_, err := dst.WriteLast(farewell(l, v))
		told = err == nil
	}
	if told {
		_ = dst.Close() // what it still sends is discarded for a while
		return
	}
	_ = dst.Reset() // between no two frames, or after FIN: only this is left
}
