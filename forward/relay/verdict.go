package relay

import (
	"errors"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// verdict is how a stream ended.
type verdict struct {
	code stream.Code
	text string

	by    *leg // whose source aborted, and so need not be told
	hurry bool // who takes nothing is not waited for
	until time.Time
}

// lostSource says what it means that the source broke off without an end mark.
func lostSource(l *leg, err error) verdict {
	when := ""
	if !l.open.Load() {
		// The pod may have read what the client had sent by then, so this is not
		// AgentOffline, after which a client may try again elsewhere.
		when = " before it answered"
	}
	if errors.Is(err, tunnel.ErrLost) {
		return verdict{code: l.lost, text: "lost the way to the " + l.name() + when}
	}
	return verdict{code: stream.Canceled, text: l.name() + " broke off" + when}
}

// lostDestination is lostSource for the end that takes nothing any more.
func (p *splice) lostDestination(l *leg, err error) verdict {
	if l == &p.up {
		return lostSource(&p.down, err)
	}
	return lostSource(&p.up, err)
}
