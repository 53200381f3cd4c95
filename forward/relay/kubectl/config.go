package kubectl

import (
	"log/slog"
	"time"
)

// Config is what a Handler needs. The zero value works.
type Config struct {
	// Strict behaves as kubelet and container runtimes do: a connection counts as
	// open before the pod was asked, and a refusal is text on the error stream,
	// upon which kubectl gives up the whole forward.
	Strict bool

	// Log hears of sessions that broke the protocol and of connections that were
	// given up here. nil: nobody does.
	Log *slog.Logger

	// Hooks hear of events that somebody may want to count.
	Hooks Hooks

	// MaxConnections bounds the forwarded connections of one session. One more is
	// refused. 0 means 1,000.
	MaxConnections int

	// StreamBuffer bounds the bytes read from the client for one connection that
	// its pod has not taken yet. The protocol has no flow control: beyond it the
	// whole session has to wait. 0 means 4 MiB.
	StreamBuffer int

	// SessionBuffer bounds the same for all connections of a session together. 0
	// means 32 MiB.
	SessionBuffer int

	// TotalBuffer bounds the same for all sessions together, but for 64 KiB that each
	// may hold in any case: with less room they are slower and lose nothing. 0 means
	// 256 MiB.
	TotalBuffer int

	// PairTimeout bounds the time between the two streams of a connection. 0
	// means 30 s.
	PairTimeout time.Duration

	// DialTimeout bounds Session.Dial. kubectl waits for 30 s. 0 means 25 s.
	DialTimeout time.Duration

	// StallTimeout is how long a session waits for a connection whose buffer is
	// full and whose pod takes nothing, before that connection is reset. 0 means
	// 30 s.
	StallTimeout time.Duration

	// PingInterval is how often a client is asked for a sign of life, once it has
	// sent its first frame. 0 means 15 s.
	PingInterval time.Duration

	// SilenceTimeout ends a session whose client sends nothing at all, not even an
	// answer to our pings. 0 means 60 s.
	SilenceTimeout time.Duration

	// FirstFrameTimeout ends a session whose client has sent no frame yet. Until
	// then the server may not send any, so nobody can be asked. 0 means 4 h.
	FirstFrameTimeout time.Duration

	// BlockedTimeout ends a session whose client takes nothing of what is written
	// to it. A kubectl with one local reader that stalls looks like that and is well,
	// and if it is dead, TCP mostly finds out sooner. 0 means 30 min.
	BlockedTimeout time.Duration
}

// Hooks are called from the goroutines that move data: they must be quick. Each
// may be nil.
type Hooks struct {
	// Stalled: a session has to wait, because a buffer is full.
	Stalled func()
	// Unstalled: it goes on, after this long.
	Unstalled func(waited time.Duration)
	// StallReset: a connection was reset because its pod took nothing while the
	// session waited for it.
	StallReset func()
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxConnections, 1000)
	setDefault(&c.StreamBuffer, 4<<20)
	setDefault(&c.SessionBuffer, 32<<20)
	setDefault(&c.TotalBuffer, 256<<20)
	setDefault(&c.PairTimeout, 30*time.Second)
	setDefault(&c.DialTimeout, 25*time.Second)
	setDefault(&c.StallTimeout, 30*time.Second)
	setDefault(&c.PingInterval, 15*time.Second)
	setDefault(&c.SilenceTimeout, 60*time.Second)
	setDefault(&c.FirstFrameTimeout, 4*time.Hour)
	setDefault(&c.BlockedTimeout, 30*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}
