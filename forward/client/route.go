package client

import "context"

// Route leads new streams to a target that may be another one each time. A
// [Target] is the Route to itself. Methods may be called from any goroutine.
type Route interface {
	// Next returns where a new stream goes now, and waits for such a place until
	// ctx ends if it has to.
	Next(ctx context.Context) (Target, error)

	// Refused hears that t refused a stream, which means that no pod has seen
	// any of it. It tells whether asking Next again is worth it.
	Refused(t Target, err error) (again bool)
}

// Next returns t.
func (t Target) Next(context.Context) (Target, error) { return t, nil }

// Refused knows nowhere else to go.
func (t Target) Refused(Target, error) bool { return false }
