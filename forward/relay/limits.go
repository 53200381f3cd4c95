package relay

import (
	"fmt"
	"strings"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// Limits keep one caller or one node from taking what all share. Of each, 0 means
// the default, and less no limit.
type Limits struct {
	// Streams, UserStreams and NodeStreams bound the streams that are open at once:
	// all, of one user, and to the pods of one node. 0 means 50,000, 20,000 and 20,000.
	Streams, UserStreams, NodeStreams int

	// Opens, UserOpens and NodeOpens bound how many streams are opened in a second,
	// after a burst of twice as many, refused ones included. 0 means 10,000, 5,000
	// and 5,000.
	Opens, UserOpens, NodeOpens int

	// UserSessions bounds the sessions of one user: of culvert, and port-forward
	// requests of kubectl. NodeSessions bounds the tunnels of one node. 0 means 2,000
	// and 64.
	UserSessions, NodeSessions int

	// UserRequests bounds the requests of one credential that the HTTP door serves at
	// once, port-forwards included. 0 means 2,000.
	UserRequests int
}

// limit is one of Limits.
type limit struct {
	name  string // in flags, metrics and texts
	usual int
	field func(*Limits) *int
	text  string // what a caller hears; %s is the user or the node, %d the number
}

const (
	limitStreams = iota
	limitUserStreams
	limitNodeStreams
	limitOpens
	limitUserOpens
	limitNodeOpens
	limitUserSessions
	limitNodeSessions
	limitUserRequests
	limitsInAll
)

// theLimits lists them in the order of the constants.
func theLimits() [limitsInAll]limit {
	const (
		wait = "try again later"
		ask  = ", or ask who runs the relay for more"
	)
	return [limitsInAll]limit{
		{"streams", 50000, func(l *Limits) *int { return &l.Streams }, "the relay%.0s carries as many streams as it may (%d): " + wait},
		{"user-streams", 20000, func(l *Limits) *int { return &l.UserStreams }, "user %s has as many streams open as one may (%d): close some" + ask},
		{"node-streams", 20000, func(l *Limits) *int { return &l.NodeStreams }, "node %s carries as many streams as one may (%d): " + wait},
		{"opens", 10000, func(l *Limits) *int { return &l.Opens }, "more streams%.0s are opened than the relay may take (%d a second): " + wait},
		{"user-opens", 5000, func(l *Limits) *int { return &l.UserOpens }, "user %s opens streams faster than one may (%d a second): slow down" + ask},
		{"node-opens", 5000, func(l *Limits) *int { return &l.NodeOpens }, "more streams are opened to node %s than it may take (%d a second): " + wait},
		{"user-sessions", 2000, func(l *Limits) *int { return &l.UserSessions }, "user %s has as many sessions as one may (%d): end a forward" + ask},
		{"node-sessions", 64, func(l *Limits) *int { return &l.NodeSessions }, "node %s has as many tunnels as one may (%d): is one agent running there?"},
		{"user-requests", 2000, func(l *Limits) *int { return &l.UserRequests }, "this credential%.0s has as many requests under way as one may (%d): end some" + ask},
	}
}

// LimitNames returns the names that Set takes.
func LimitNames() []string {
	var names []string
	for _, one := range theLimits() {
		names = append(names, one.name)
	}
	return names
}

// Set sets one of them by its name: user-streams is UserStreams.
func (l *Limits) Set(name string, n int) error {
	for _, one := range theLimits() {
		if one.name == name {
			*one.field(l) = n
			return nil
		}
	}
	return fmt.Errorf("there is no limit %q; there are %s", name, strings.Join(LimitNames(), ", "))
}

// bounds are Limits with their defaults, by the constants; less than 0 for none.
func (l *Limits) bounds() (out [limitsInAll]int) {
	for i, one := range theLimits() {
		if out[i] = *one.field(l); out[i] == 0 {
			out[i] = one.usual
		}
	}
	return out
}

// exceeded is what who hears of a limit.
func exceeded(which, bound int, who string) *overLimitError {
	one := theLimits()[which]
	text := fmt.Sprintf(one.text, who, bound)
	return &overLimitError{
		told:  &stream.Error{Code: stream.Overloaded, Text: clipTo(text, stream.MaxText/2) + " (limit " + one.name + ")"},
		limit: one.name,
	}
}

// overLimitError is a refusal for which a limit is the reason.
type overLimitError struct {
	told  *stream.Error
	limit string
}

func (e *overLimitError) Error() string { return e.told.Error() }
func (e *overLimitError) Unwrap() error { return e.told }
