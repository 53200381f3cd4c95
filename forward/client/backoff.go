package client

import (
	"context"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
)

const (
	// firstPause follows the first attempt, which follows a loss at once.
	firstPause = 50 * time.Millisecond

	// kickFloor is the shortest pause a waiting connection can bring about:
	// a busy local program must not turn a relay's restart into a flood.
	kickFloor = 250 * time.Millisecond

	// loginPause and loginFloor are the same for attempts that fail because a
	// person has to log in again: each may start a program that asks him.
	loginPause = 5 * time.Minute
	loginFloor = 10 * time.Second
)

// wait pauses for d or until ctx ends. Somebody who waits for a session cuts
// it short, but not below floor.
func (c *Client) wait(ctx context.Context, d, floor time.Duration) {
	floor = min(d, floor)
	if !connect.Sleep(ctx, floor) || d == floor {
		return
	}
	t := time.NewTimer(d - floor)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.kick:
	case <-ctx.Done():
	}
}
