package tunnel

import (
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// Limits and timers of a session that are not worth a setting.
const (
	// acceptBacklog bounds opens not yet acknowledged; both ends must agree on
	// it. It is above any stream limit of ours, so that opening never blocks
	// on it.
	acceptBacklog = 8192

	// maxStreamsLimit keeps a session well below the backlog.
	maxStreamsLimit = 4000

	minWindow = 256 << 10 // what yamux grants before it is asked
	lanWindow = 512 << 10 // measured best where the round trip is short

	// muxFrame is the most that a frame of data carries: with its header it is one
	// TLS record of 16 KiB, and so can be read into one chunk and sent on as it is.
	muxFrame = bigChunk - muxHeader

	muxHeader = 12
)

// Config sets the limits of a Session. The zero value is good for a data
// centre and for the internet.
type Config struct {
	// MaxStreams bounds the streams open at once, those of both ends counted
	// together, 1 to 4000. 0 means 2000. A stream beyond it is refused:
	// Open returns ErrTooManyStreams, one the peer opens is reset.
	MaxStreams int

	// Window is the credit in bytes a stream's sender gets, at least 256 KiB.
	// 0 means 512 KiB, and more for a stream that has used half of it within two
	// round trips, as far as MaxWindow and Memory allow.
	Window uint32

	// MaxWindow bounds the window of a stream on a long path. 0 means
	// 32 MiB.
	MaxWindow uint32

	// PingAfter is the silence from the peer after which it is asked whether
	// it lives. 0 means 5 s.
	PingAfter time.Duration

	// DeadAfter is how long the peer may stay silent after the question
	// reached it, or how long the way to it may make no progress. 0 means 10 s.
	DeadAfter time.Duration

	// Memory holds the buffers of what came in and was not read yet. The sessions
	// of a process should share one. nil: one of its own.
	Memory *Memory

	// Linger is how long a stream that was closed or reset on this end waits
	// for the peer to end it too, its data discarded, before the peer's end is
	// reset by force. 0 means 5 s.
	Linger time.Duration
}

func (c Config) withDefaults() Config {
	if c.MaxStreams <= 0 {
		c.MaxStreams = 2000
	}
	c.MaxStreams = min(c.MaxStreams, maxStreamsLimit)
	if c.MaxWindow == 0 {
		c.MaxWindow = 32 << 20
	}
	c.MaxWindow = max(c.MaxWindow, lanWindow)
	if c.PingAfter <= 0 {
		c.PingAfter = 5 * time.Second
	}
	if c.DeadAfter <= 0 {
		c.DeadAfter = 10 * time.Second
	}
	if c.Linger <= 0 {
		c.Linger = 5 * time.Second
	}
	if c.Memory == nil {
		c.Memory = new(Memory)
	}
	return c
}

// window returns the credit that a stream begins with.
func (c Config) window() uint32 {
	if c.Window != 0 {
		return max(c.Window, minWindow)
	}
	return lanWindow
}

func (c Config) mux(window uint32) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog: acceptBacklog,
		// Liveness is ours: yamux's ping waits behind bulk data and kills slow
		// links.
		EnableKeepAlive:   false,
		KeepAliveInterval: time.Hour,
		// A frame that timed out here may still be sent, and then the window
		// accounting of the session is wrong. The carrier ends a session that
		// makes no progress long before this.
		ConnectionWriteTimeout: 24 * time.Hour,
		MaxStreamWindowSize:    window,
		StreamOpenTimeout:      0, // on expiry yamux closes the whole session
		StreamCloseTimeout:     0, // on expiry yamux ends a half-closed stream with a clean EOF
		// Late frames of a reset stream are normal, and errors are returned.
		LogOutput: io.Discard,
	}
}
