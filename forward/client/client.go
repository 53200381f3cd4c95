package client

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// Relay is one way in.
type Relay struct {
	// Addr is host:port.
	Addr string

	// TLS proves the relay, and the client if it holds a certificate. The
	// server name is taken from Addr when empty; the protocol name and version
	// are set by this package. nil trusts what the system trusts.
	TLS *tls.Config

	at string // host:port that is dialled, if Addr was resolved
}

// Config says which relays to use and how. Relays must be set.
type Config struct {
	// Relays are equal to the client, at least one. They are tried in random
	// order.
	Relays []Relay

	// Token returns the bearer token and is asked before every attempt, so
	// that a token that was replaced is found. nil, or the token empty: the
	// client certificate in the relay's TLS is the credential.
	Token func() (string, error)

	// Expired, if not nil, hears that a relay no longer accepts what Token
	// returned, so that Token gets another one. A Client with it does not give
	// up once it had a session: whoever logs in again is served again.
	Expired func()

	// Proxy returns the HTTP proxy for a URL, or nil for none. nil: no proxy.
	Proxy func(*url.URL) (*url.URL, error)

	// DialTimeout bounds one attempt at one relay: connecting, TLS and the
	// relay's answer to the credential. 0 means 10 s.
	DialTimeout time.Duration

	// WaitTimeout bounds how long a new connection waits for a session while
	// there is none. 0 means 10 s.
	WaitTimeout time.Duration

	// MaxBackoff bounds the pause between attempts. 0 means 5 s.
	MaxBackoff time.Duration

	// Tunnel sets the limits of the session.
	Tunnel tunnel.Config

	// Trace is what the program does all this for: its streams are steps of it. Zero:
	// each stream begins a trace of its own.
	Trace stream.Trace

	// Notify, if not nil, hears what happens to the session. It is called from
	// Run only, one call at a time, and must not wait.
	Notify func(Event)
}

// Event is a change that a person may want to know about.
type Event struct {
	// Kind says what happened.
	Kind EventKind
	// Relay is the address of the relay for Attached and Lost.
	Relay string
	// Err is the cause for Lost and Failed.
	Err error
	// Odd is set for Failed when every relay answered, and what it answered would
	// have ended a Client that never had a session: waiting may not help.
	Odd bool
}

// EventKind is the kind of an Event.
type EventKind int

// The kinds of events.
const (
	Attached EventKind = iota + 1 // a session was made
	Lost                          // the session ended, another attempt follows
	Failed                        // one attempt at every relay failed, another follows
)

func (c Config) withDefaults() Config {
	if c.DialTimeout <= 0 {
		c.DialTimeout = 10 * time.Second
	}
	if c.WaitTimeout <= 0 {
		c.WaitTimeout = 10 * time.Second
	}
	if c.MaxBackoff <= 0 {
		c.MaxBackoff = 5 * time.Second
	}
	if c.Tunnel.Memory == nil {
		c.Tunnel.Memory = new(tunnel.Memory) // one for all sessions
	}
	if c.Notify == nil {
		c.Notify = func(Event) {}
	}
	return c
}

// Client opens streams to pods over one session to a relay. Run keeps the
// session up; Connect makes it once, for a command that does one thing. All
// methods may be called from any goroutine.
type Client struct {
	cfg    Config
	attach func(ctx context.Context, relay Relay) (session, error)
	kick   chan struct{} // capacity 1: somebody waits for a session

	looking chan struct{} // held by who looks for another relay

	mu      sync.Mutex
	cur     *link
	retired []*link       // refused new streams, still carry old ones
	others  []*link       // to other relays, for streams that cur has no way for
	vain    vain          // the looks for another relay that brought none
	changed chan struct{} // closed and replaced when cur, ended or once changes
	ended   error         // why no session will ever be made again
	once    bool          // nobody replaces a lost session
	lastErr error         // of the last failed attempt
}

// link is a session with its place in the Client.
type link struct {
	session
	relay string
	began time.Time
	left  chan struct{} // closed by retire, under mu
	about atomic.Pointer[controlv1.AboutResponse]

	spread time.Duration // over which it is to be replaced; before left is closed
	used   time.Time     // last, of one beside the current one; under mu
}

func newLink(s session, r Relay) *link {
	return &link{session: s, relay: r.Addr, began: time.Now(), left: make(chan struct{})}
}

// New returns a Client. It connects to nothing yet.
func New(cfg Config) *Client {
	c := &Client{
		cfg:     cfg.withDefaults(),
		kick:    make(chan struct{}, 1),
		looking: make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	c.attach = c.attachRelay
	return c
}

// Connect tries every relay once and returns nil when one accepted. A Client
// used so does not replace a session that is lost, unless Run is called. The
// caller ends it with Close.
func (c *Client) Connect(ctx context.Context) error {
	c.setOnce(true)
	l, err := c.connect(ctx, "")
	if err != nil {
		c.failed(err)
		return err
	}
	return c.install(l)
}

// Run keeps a session to a relay until ctx ends, which is no error, or until
// every relay refuses for a reason that trying again cannot cure (a wrong
// token, a certificate that does not verify): that reason is returned, and
// net.ErrClosed after Close. Once there was a session, only what a relay says in
// so many words is such a reason: a handshake that goes wrong may be a wire that
// damages bytes, a certificate that does not verify may be about to be replaced.
// All sessions are closed then, and streams on them end with an error.
func (c *Client) Run(ctx context.Context) error {
	defer c.Close() // sessions that end have nobody to tell
	c.setOnce(false)
	pause := connect.Backoff{First: firstPause, Max: c.cfg.MaxBackoff}
	avoid, attached := "", false
	for ctx.Err() == nil {
		if c.isClosed() {
			return net.ErrClosed
		}
		l, err := c.present(), error(nil)
		if l == nil {
			l, err = c.connect(ctx, avoid)
		}
		switch {
		case ctx.Err() != nil:
			if l != nil {
				_ = l.Close() // never used
			}
			return nil
		case attached && c.cfg.Expired != nil && needsLogin(err):
			c.failed(err)
			c.cfg.Notify(Event{Kind: Failed, Err: err})
			c.wait(ctx, loginPause, loginFloor)
			continue
		case isFinal(err) && (!attached || isRefusal(err)):
			c.end(err)
			return err
		case err != nil:
			c.failed(err)
			c.cfg.Notify(Event{Kind: Failed, Err: err, Odd: isFinal(err)})
		default:
			attached = true
			avoid = c.keep(ctx, l, &pause)
			if avoid != "" && l.spread > 0 { // not all clients of a relay at once, unless somebody waits
				c.wait(ctx, rand.N(l.spread), 0) //nolint:gosec // no secret
				continue
			}
		}
		c.wait(ctx, pause.Next(), kickFloor)
	}
	return nil
}

// keep uses l until it is lost, retired or ctx ends, and returns the relay to
// try last next time, if any.
func (c *Client) keep(ctx context.Context, l *link, pause *connect.Backoff) (avoid string) {
	if err := c.install(l); err != nil {
		return ""
	}
	c.cfg.Notify(Event{Kind: Attached, Relay: l.relay})
	began := time.Now()
	hearing, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { c.listen(hearing, l) })
	defer beside.Wait()
	defer stop()
	if c.use(ctx, l); ctx.Err() != nil {
		return ""
	}
	if l.dead() {
		c.remove(l)
		c.failed(l.lost())
		c.cfg.Notify(Event{Kind: Lost, Relay: l.relay, Err: l.lost()})
	} else {
		avoid = l.relay
	}
	// A relay that accepts and drops at once must not be hammered.
	if time.Since(began) >= c.cfg.MaxBackoff {
		pause.Reset()
	}
	return avoid
}

// use returns when l is lost, retired or ctx ends.
func (c *Client) use(ctx context.Context, l *link) {
	tidy := time.NewTicker(idleTime / 2)
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.left:
			return
		case <-l.Done():
			return
		case <-tidy.C:
			c.closeIdle()
		}
	}
}

// Close ends Run, all sessions and with them all streams; waiting calls return
// net.ErrClosed. Closing again does nothing.
func (c *Client) Close() error {
	c.end(net.ErrClosed)
	c.hurry()
	c.mu.Lock()
	links := append(c.retired, c.others...)
	if c.cur != nil {
		links = append(links, c.cur)
	}
	c.cur, c.retired, c.others = nil, nil, nil
	c.mu.Unlock()
	var first error
	for _, l := range links {
		if err := l.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
