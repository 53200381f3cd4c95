package relay

import (
	"context"
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// noise writes warnings that peers can cause at will: a burst of them, then
// one a second. Each line says how many were left out before it.
type noise struct {
	to     *slog.Logger
	limit  *rate.Limiter
	silent atomic.Int64
}

func newNoise(to *slog.Logger) *noise {
	return &noise{to: to, limit: rate.NewLimiter(1, 20)}
}

func (n *noise) warn(ctx context.Context, msg string, args ...any) {
	if !n.to.Enabled(ctx, slog.LevelWarn) {
		return
	}
	if !n.limit.Allow() {
		n.silent.Add(1)
		return
	}
	if left := n.silent.Swap(0); left > 0 {
		args = append(args, "left_out_before", left)
	}
	n.to.Log(ctx, slog.LevelWarn, msg, args...)
}
