package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// chunk is how much is copied at once: what one frame and its mux header
	// fill.
	chunk = 64 << 10
	// partingTime bounds what is left of a stream once it can no longer end
	// well.
	partingTime = 5 * time.Second
)

// verdict is how a stream ended.
type verdict struct {
	code stream.Code
	text string
}

// splice is a stream on its way through the relay: the same bytes on two legs.
type splice struct {
	srv   *Server
	flow  *flow
	ctx   context.Context //nolint:containedctx // the life of this one stream
	up    leg             // client to agent
	down  leg             // agent to client
	mu    sync.Mutex
	first *verdict // of a stream that did not end well
}

// leg is one direction.
type leg struct {
	src, dst *tunnel.Stream
	seen     *stream.Scanner
	lost     stream.Code // what it means when src breaks off
	who      string
	ended    bool // dst was told how it ended
}

// splice copies between client and agent and takes both over. It returns when
// both directions have ended.
func (s *Server) splice(ctx context.Context, client, agent *tunnel.Stream, f *flow) verdict {
	p := &splice{srv: s, flow: f, ctx: ctx}
	p.up = leg{src: client, dst: agent, seen: &f.up, lost: stream.Canceled, who: "client"}
	p.down = leg{src: agent, dst: client, seen: &f.down, lost: stream.AgentOffline, who: "node " + f.node}
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = client.SetDeadline(past)
		_ = agent.SetDeadline(past)
	})
	defer stop()

	var both sync.WaitGroup
	both.Go(func() { p.carry(&p.up) })
	if p.answer() {
		p.carry(&p.down)
	}
	both.Wait()
	return p.close()
}

// answer passes the agent's Reply on. It reports whether the pod accepted.
func (p *splice) answer() bool {
	agent, client := p.down.src, p.down.dst
	_ = agent.SetReadDeadline(time.Now().Add(p.srv.cfg.OpenTimeout))
	reply, err := stream.ReadReply(agent)
	if err != nil {
		reply = &stream.Reply{Code: p.down.lost, Text: fmt.Sprintf("%s was lost before it answered", p.down.who)}
		switch code := stream.CodeOf(err); {
		case p.ctx.Err() != nil:
			reply.Code, reply.Text = stream.GoingAway, "relay is shutting down"
		case code == stream.Timeout || errors.Is(err, os.ErrDeadlineExceeded):
			reply.Code, reply.Text = stream.Timeout, fmt.Sprintf("%s did not answer in time", p.down.who)
		}
	}
	_ = agent.SetReadDeadline(time.Time{})
	reply.Version = stream.Version
	b, err := stream.AppendReply(nil, reply)
	if err != nil {
		reply.Code, b = stream.Internal, nil
	}
	if reply.Code == stream.OK {
		if _, err = client.Write(b); err == nil {
			return true
		}
		p.judge(verdict{stream.Canceled, "client left before the pod answered"})
		p.down.ended = true
		return false
	}
	p.judge(verdict{reply.Code, reply.Text})
	_, err = client.WriteLast(b)
	p.down.ended = err == nil
	_ = client.Close() // lets the other direction go
	return false
}

// carry copies one direction until it has ended.
func (p *splice) carry(l *leg) {
	var buf *[chunk]byte
	borrow := func() []byte { buf = p.srv.buffers.Get().(*[chunk]byte); return buf[:] } //nolint:forcetypeassert // ours
	release := func() { p.srv.buffers.Put(buf); buf = nil }
	for {
		n, err := l.src.ReadLazy(borrow, release)
		if err != nil {
			p.broken(l, err)
			return
		}
		done, err := p.pass(l, buf[:n])
		release()
		if err != nil {
			p.undeliverable(l, err)
		}
		if done || err != nil {
			return
		}
	}
}

// pass hands one chunk on and tells whether it ended its direction.
func (p *splice) pass(l *leg, b []byte) (done bool, err error) {
	if err := l.seen.Scan(b); err != nil {
		p.judge(verdict{stream.Malformed, fmt.Sprintf("%s broke the protocol: %v", l.who, err)})
		p.tell(l, stream.Malformed, l.who+" broke the protocol")
		return true, nil
	}
	if !l.seen.Ended() {
		_, err := l.dst.Write(b)
		return false, err
	}
	if r := l.seen.Reset(); r != nil {
		p.judge(verdict{r.Code, r.Text})
	}
	_, err = l.dst.WriteLast(b)
	l.ended = err == nil
	return true, err
}

// broken deals with a source that stopped without an end mark: the
// destination is told, so that it cannot take this for the end.
func (p *splice) broken(l *leg, err error) {
	code, text := l.lost, fmt.Sprintf("lost the way to the %s", l.who)
	switch {
	case p.ctx.Err() != nil:
		code, text = stream.CodeOf(context.Cause(p.ctx)), "relay is shutting down"
	case errors.Is(err, forward.ErrReset), errors.Is(err, io.EOF):
		text = l.who + " broke off"
	}
	if p.judge(verdict{code, text}) {
		p.tell(l, code, text)
	}
}

// tell ends a direction with a RESET frame if there is room for one between
// two frames. If not, close resets the whole stream.
func (p *splice) tell(l *leg, code stream.Code, text string) {
	if l.seen.Partial() || l.seen.Ended() {
		return
	}
	_ = l.dst.SetWriteDeadline(time.Now().Add(partingTime))
	_, err := l.dst.WriteLast(stream.AppendReset(nil, code, text))
	l.ended = err == nil
}

// undeliverable deals with a destination that takes nothing any more. Its own
// direction says why, if it has not ended yet; if it has, nobody else will.
func (p *splice) undeliverable(l *leg, err error) {
	code, text := stream.Canceled, "client broke off"
	if l == &p.up {
		code, text = stream.AgentOffline, "lost the way to the node"
		if errors.Is(err, forward.ErrReset) {
			text = "node broke off"
		}
	}
	p.judge(verdict{code, text})
}

// judge keeps the first verdict on a stream that does not end well, and gives
// the rest of it a bounded time. It tells whether this was the first.
func (p *splice) judge(v verdict) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first != nil {
		return false
	}
	p.first = &v
	soon := time.Now().Add(partingTime)
	_ = p.up.src.SetDeadline(soon)
	_ = p.up.dst.SetDeadline(soon)
	return true
}

// close releases both streams. One whose peer was not told how it ended is
// reset.
func (p *splice) close() verdict {
	for _, l := range []*leg{&p.up, &p.down} {
		if l.ended {
			_ = l.dst.Close()
		} else {
			_ = l.dst.Reset()
		}
	}
	if p.first != nil {
		return *p.first
	}
	return verdict{code: stream.OK}
}
