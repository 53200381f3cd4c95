package broker

import (
	"errors"

	"github.com/culvert-k8s/culvert/agent/sandbox"
)

var errEndless = errors.New("the list of pods has no end")

// list are pods of which not all have come yet.
type list struct {
	begun bool
	pods  []sandbox.Pod
}

// add takes the next piece and tells whether it was the last one.
func (l *list) add(p piece) (whole bool, err error) {
	if p.first {
		l.begun, l.pods = true, make([]sandbox.Pod, 0, len(p.pods))
	}
	if !l.begun {
		return false, errMalformed
	}
	if len(l.pods)+len(p.pods) > maxPods {
		return false, errEndless
	}
	l.pods = append(l.pods, p.pods...)
	l.begun = !p.last
	return p.last, nil
}

// hear takes one message that a follower got.
func (c *Client) hear(msg []byte, fresh *list) error {
	if len(msg) < 2 {
		return errMalformed
	}
	switch kind(msg[1]) {
	case isState:
		s, err := readState(msg)
		if err == nil {
			c.tell(s)
			c.prune()
		}
		return err
	case isPods:
		p, err := readPiece(msg)
		if err != nil {
			return err
		}
		whole, err := fresh.add(p)
		if whole {
			c.mu.Lock()
			c.pods = fresh.pods
			c.mu.Unlock()
			c.raise()
		}
		return err
	case isAnswer:
		a, err := readAnswer(msg)
		if err == nil {
			err = a.err()
		}
		if err != nil {
			return err
		}
	}
	return errMalformed
}

// tell takes what the broker says of itself.
func (c *Client) tell(s state) {
	c.mu.Lock()
	news := c.away != nil || c.now != s
	c.now, c.away = s, nil
	c.mu.Unlock()
	if news {
		c.raise()
	}
}

// lost notes that the broker tells nothing any more. Connections that are idle
// would only be found dead one by one.
func (c *Client) lost(why error) {
	c.mu.Lock()
	c.away = why
	c.mu.Unlock()
	c.drop(false)
	c.raise()
}

func (c *Client) raise() {
	select {
	case c.changed <- struct{}{}:
	default: // nobody has seen the last one yet
	}
}
