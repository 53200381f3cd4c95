package kubectl

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// run brings the pair to its pod and back.
func (p *pair) run() {
	defer p.s.forget(p)
	link, err := p.link()
	if err == nil && !p.accept() {
		_ = link.Close()
		err = errClientLeft
	}
	if err != nil {
		p.refuse(err)
		return
	}
	// Its error has been told to the client, and the link keeps the account of it.
	_ = link.Join(p.s.ctx, p.conn)
	_ = p.conn.Close()
}

// link dials the pod and waits until both streams are there. kubectl opens the data
// stream when the error stream was answered, and both name the port, so to dial
// before the second is there saves a round trip. Only the data stream's port counts.
func (p *pair) link() (Connection, error) {
	port := p.guess()
	var (
		link Connection
		err  error
	)
	if port != 0 {
		link, err = p.s.dial(p.ctx, port)
		if !p.learn(port, err) {
			return nil, err
		}
	}
	if failed := p.waitFull(); failed != nil {
		if link != nil {
			_ = link.Close()
		}
		return nil, failed
	}
	if p.dataPort != port { // set before full was closed
		if link != nil {
			_ = link.Close()
		}
		link, err = p.s.dial(p.ctx, p.dataPort)
	}
	return link, err
}

// maxRefused bounds the ports that a session remembers as refused.
const maxRefused = 1000

// learn remembers whether a port was refused, and gives the answer that waited for
// that. It returns false if there is nothing to wait for any more.
func (p *pair) learn(port uint16, err error) bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	switch {
	case err == nil:
		delete(p.s.refused, port)
	case p.ctx.Err() == nil && len(p.s.refused) < maxRefused:
		p.s.refused[port] = true
	}
	if err != nil && !p.errAnswered && p.dataID == 0 {
		return false
	}
	p.answerErrorLocked()
	return true
}

// guess returns the port to dial before the data stream is there, or 0.
func (p *pair) guess() uint16 {
	if p.s.cfg.Strict {
		return 0
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.errPort
}

// waitFull waits for the second stream.
func (p *pair) waitFull() error {
	timeout := time.NewTimer(time.Until(p.created.Add(p.s.cfg.PairTimeout)))
	defer timeout.Stop()
	select {
	case <-p.full:
		return nil
	default:
	}
	select {
	case <-p.full:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	case <-timeout.C:
		return errNoPartner
	}
}

// accept tells the client that its pod has accepted. It returns false if the client
// has given up meanwhile.
func (p *pair) accept() bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.dataEnded {
		return false
	}
	p.answerErrorLocked()
	p.answerDataLocked()
	return true
}

// refuse ends a pair that never had a connection.
func (p *pair) refuse(err error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.conn != nil {
		p.conn.abort(forward.ResetBy(err))
	}
	if p.s.cfg.Strict {
		p.sayLocked(p.strictText(err))
	}
	p.endDataLocked()
	p.endErrorLocked()
}

// strictText is what a kubelet would say about err.
func (p *pair) strictText(err error) string {
	if err == error(errNoPartner) { //nolint:errorlint // ours, as it is
		return fmt.Sprintf("(conn=%p, request=%s) timed out waiting for streams", p.s.carrier, p.request)
	}
	return strictText(p.s.user, p.dataPort, err)
}

func strictText(user Session, port uint16, err error) string {
	var name, uid string
	if n, ok := user.(Namer); ok {
		name, uid = n.Pod()
	}
	return cut(fmt.Sprintf("error forwarding port %d to pod %s, uid %v: %v", port, name, uid, err))
}

// podFinished passes the pod's end on. The error stream ends as well, or kubectl would
// wait for that with its local socket open.
func (p *pair) podFinished() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if !p.dataEnded {
		p.s.out.post(func(b []byte) []byte { return appendFin(b, p.dataID) })
	}
	p.endErrorLocked()
}

// podReset passes an abort on, without a word: a word would end the whole forward.
func (p *pair) podReset(cause error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.s.cfg.Strict && cause != nil {
		p.sayLocked(p.strictText(cause))
	}
	p.endDataLocked()
	p.endErrorLocked()
}

// endLocked ends the pair for a reason that the user is told.
func (p *pair) endLocked(reason string) {
	p.sayLocked(reason)
	p.endErrorLocked()
	p.endDataLocked()
}

func (p *pair) sayLocked(text string) {
	if p.errID != 0 && !p.errEnded {
		p.answerErrorLocked()
		p.s.out.post(func(b []byte) []byte { return appendData(b, p.errID, 0, []byte(text)) })
	}
}

func (p *pair) answerErrorLocked() {
	if p.errID != 0 && !p.errEnded && !p.errAnswered {
		p.errAnswered = true
		p.s.answer(p.errID)
	}
}

func (p *pair) answerDataLocked() {
	if p.dataID != 0 && !p.dataEnded && !p.dataAnswered {
		p.dataAnswered = true
		p.s.answer(p.dataID)
	}
}

func (s *spdySession) answer(id uint32) {
	s.out.post(func(b []byte) []byte { return s.replies.append(b, id) })
}

// endErrorLocked finishes the error stream, or refuses it if it was not answered.
func (p *pair) endErrorLocked() {
	if p.errID == 0 || p.errEnded {
		return
	}
	if !p.errAnswered && !p.late(p.errBorn) {
		p.errEnded = true
		p.s.reset(p.errID, rstCancel)
		return
	}
	p.answerErrorLocked()
	p.errEnded = true
	p.s.out.post(func(b []byte) []byte { return appendFin(b, p.errID) })
}

// endDataLocked resets the data stream.
func (p *pair) endDataLocked() {
	if p.dataID == 0 || p.dataEnded {
		return
	}
	if p.late(p.dataBorn) {
		p.answerDataLocked()
	}
	p.dataEnded = true
	p.s.reset(p.dataID, rstCancel)
}

// late tells whether the client may no longer wait for the answer to a stream that it
// opened then. It has to get one all the same, see lateAnswer.
func (p *pair) late(born time.Time) bool {
	blocked := p.s.out.blockedSince()
	return time.Since(born) >= lateAnswer || !blocked.IsZero() && time.Since(blocked) >= time.Second
}
