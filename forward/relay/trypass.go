package relay

import "github.com/culvert-k8s/culvert/proto/stream"

// tryPass is pass for a piece of plain data, if that can be done without waiting:
// it runs where everything of the source's tunnel comes in.
func (p *splice) tryPass(l *leg, b []byte) int {
	if !l.mu.TryLock() {
		return 0
	}
	n := 0
	if p.fate.Load() == nil && l.seen.Plain(b) {
		n = l.dst().TryWrite(b)
	}
	if n > 0 { // all of it
		before := l.seen.Payload()
		_ = l.seen.Scan(b) // it is plain
		l.count.Add(int(l.seen.Payload() - before))
		if l == &p.up {
			p.early.keep(b)
		}
		l.torn = l.seen.Partial()
	}
	l.mu.Unlock()
	if v := p.fate.Load(); v != nil && v.code != stream.OK {
		p.all.Go(func() { p.tell(l) }) // it may wait; carry is here still
	}
	return n
}
