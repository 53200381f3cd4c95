package relay

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// answer passes the agent's Reply on. It reports whether the pod accepted; if
// not, the stream has been cut, and the client gets its Reply from that.
func (p *splice) answer(ctx context.Context) bool {
	for {
		agent := p.down.src()
		_ = agent.SetReadDeadline(time.Now().Add(p.srv.cfg.OpenTimeout))
		reply, err := stream.ReadReply(agent)
		_ = agent.SetReadDeadline(time.Time{})
		if err != nil {
			p.abort(p.noAnswer(err))
			break
		}
		if reply.Code == stream.OK {
			p.srv.accepted(p.flow)
			p.accept(reply)
			break
		}
		v := p.refused(reply)
		if p.elsewhere(ctx, &v) {
			continue
		}
		p.abort(v)
		break
	}
	p.early.drop()
	return p.fate.Load() == nil
}

// refused is what a refusal of the agent means to the client.
func (p *splice) refused(reply *stream.Reply) verdict {
	v := verdict{code: reply.Code, text: reply.Text, by: &p.down}
	if reply.Code == stream.GoingAway {
		// To the client the same code would say that this relay leaves.
		v.code, v.text = stream.AgentOffline, p.down.name()+" is going away"
	}
	return v
}

// accept passes a yes on.
func (p *splice) accept(reply *stream.Reply) {
	l := &p.down
	reply.Version = stream.Version
	b, err := stream.AppendReply(nil, reply)
	l.mu.Lock()
	if p.fate.Load() == nil && err == nil {
		var n int
		write := l.dst().Write
		if l.src().Ready() { // what the pod said at once is passed on next
			write = l.dst().WriteSoon
		}
		n, err = write(b)
		l.open.Store(err == nil)
		l.torn = err != nil && n > 0
	}
	p.unlock(l)
	if err != nil {
		p.abort(p.lostDestination(l, err))
	}
}

// noAnswer says what it means that no Reply could be read.
func (p *splice) noAnswer(err error) verdict {
	name := p.down.name()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return verdict{code: stream.Timeout, text: name + " did not answer in time"}
	case errors.As(err, new(*stream.Error)):
		return verdict{code: stream.CodeOf(err), text: name + " broke the protocol: " + stream.TextOf(err)}
	}
	return lostSource(&p.down, err)
}

// farewell is what tells an end why the stream was cut.
func farewell(l *leg, v *verdict) []byte {
	if l.open.Load() {
		return stream.AppendReset(nil, v.code, v.text)
	}
	b, err := stream.AppendReply(nil, &stream.Reply{Version: stream.Version, Code: v.code, Text: v.text})
	if err != nil {
		b = nil // cannot be: it is no yes
	}
	return b
}
