package traffic

import (
	"errors"
	"fmt"
	"time"
)

// outcome is how a connection went.
type outcome uint8

const (
	clean   outcome = iota // both ends did what they wanted and saw what the other did
	cut                    // broken off by what is between them
	refused                // never reached the pod
)

// call is one connection, from the user's end to the pod's.
type call struct {
	id    uint64
	flow  *flow
	kind  Kind
	began time.Time

	near, far *side

	// Under the lock of the Load.
	nearOver, farOver bool
	arrived           bool         // at the pod
	excused           bool         // a fault was in force on its flow while it lived
	blame             *Disturbance // the last of those
	dialErr           error
	judged            bool
}

// over tells whether neither end is at work.
func (c *call) over() bool { return c.nearOver && (!c.arrived || c.farOver) }

// judge compares what the ends noted. The error is about what no fault excuses.
// It is called when both are over.
func (c *call) judge() (outcome, error) {
	err := errors.Join(
		direction("from client to pod", c.near, c.far),
		direction("from pod to client", c.far, c.near),
	)
	switch {
	case err != nil:
		return cut, fmt.Errorf("%s: %w", c, err)
	case !c.arrived:
		return refused, nil
	case c.wellEnded(c.near, c.far) && c.wellEnded(c.far, c.near):
		return clean, nil
	}
	return cut, nil
}

// wellEnded tells whether what from did is what to saw.
func (c *call) wellEnded(from, to *side) bool {
	if from.aborted || to.aborted {
		return true // that nothing was invented is checked elsewhere
	}
	return from.finished && to.end == eof && to.got == from.sent && (from.writeErr == nil)
}

// direction looks for what may never be, whatever happens in between.
func direction(what string, from, to *side) error {
	switch {
	case to.wrong >= 0:
		return fmt.Errorf("%s: byte %d is not the one that was sent", what, to.wrong)
	case to.got > from.sent:
		return fmt.Errorf("%s: %d bytes came and %d were sent", what, to.got, from.sent)
	case to.end != eof || to.wasReset():
		return nil
	case !from.finished:
		return fmt.Errorf("%s: an end after %d of %d bytes that nobody made", what, to.got, from.sent)
	case to.got != from.sent:
		return fmt.Errorf("%s: a clean end after %d of %d bytes", what, to.got, from.sent)
	}
	return nil
}

// String says everything that is known.
func (c *call) String() string {
	return fmt.Sprintf("connection %d on %s (%s, begun %s, excused %v, arrived %v, dial %v; client: %s; pod: %s)",
		c.id, c.flow.name, c.kind, c.began.Format("15:04:05.000"), c.excused, c.arrived, c.dialErr, c.near, c.far)
}

func (s *side) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("step %d of %d, sent %d, finished %v, aborted %v, got %d, %s, %v, %v",
		s.at, len(s.steps), s.sent, s.finished, s.aborted, s.got, s.end, s.readErr, s.writeErr)
}
