package broker

import (
	"errors"
	"log/slog"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
)

// Config is what a Server needs. Pods must be set.
type Config struct {
	// Pods are reached for whoever asks.
	Pods *reach.Local

	// UID is the user that may ask, as the kernel tells it (SO_PEERCRED). The zero
	// value is root.
	UID int

	// MaxConns bounds connections, and with them the questions under way and what
	// each of these needs of descriptors and goroutines; more are closed at once.
	// 0 means what ConnsFor says for a Client that has its own defaults.
	MaxConns int

	// OpenTimeout bounds one question, beside what the client says. 0 means 5 s.
	OpenTimeout time.Duration

	// Linger is how long questions are answered after the end of Serve's context,
	// as long as a client is connected: an agent that drains needs its broker. 0
	// means not at all.
	Linger time.Duration

	// Log hears of peers that are not let in or break the protocol, a few of them;
	// on the level debug of every socket that is handed out. nil: nobody does.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Pods == nil || c.Pods.Source == nil || c.Pods.Dialer == nil {
		return c, errors.New("broker needs a source of pods and a way to dial them")
	}
	if c.MaxConns <= 0 {
		c.MaxConns = ConnsFor(defaultQuestions)
	}
	if c.OpenTimeout <= 0 {
		c.OpenTimeout = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
