package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// maxQuick bounds the questions that have been under way for less than quickTime.
	// The kernel likes to run the broker in the stead of whoever wakes it. To the Go
	// runtime that is a thread that blocks, and worth another one, which it keeps.
	maxQuick  = 16
	quickTime = 2 * time.Millisecond
	// firstPause and lastPause are between attempts to follow a broker that is away.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
	// maxPods bounds the list, whatever a broker says.
	maxPods = 1 << 16
)

var (
	// ErrAway is in the chain of every error for which there is no broker to ask.
	ErrAway = errors.New("broker is away")

	errSilent = fmt.Errorf("%w: it does not answer", ErrAway)
)

// ClientConfig says where the broker is.
type ClientConfig struct {
	// Socket is the path of its socket. Required.
	Socket string
	// MaxQuestions bounds the questions under way; more wait for their turn. It
	// must be less than the connections that the broker takes. 0 means 256.
	MaxQuestions int
}

// Client asks a broker. Make one with NewClient. While the broker is away pods are
// refused with the code stream.Unreachable, List is what was known last, and Run
// looks for it again.
type Client struct {
	cfg     ClientConfig
	silence time.Duration // how long a follower waits for the next word
	turns   chan struct{}
	quick   chan struct{} // held while an answer is expected at once
	changed chan struct{} // holds one

	mu   sync.Mutex
	idle []*line // nobody has asked on them and not heard the answer
	rest int     // so many of them, from the first on, were idle since the last beat
	over bool    // Run has ended
	pods []sandbox.Pod
	now  state
	away error // why the broker does not tell of its pods; nil: it does
}

var _ reach.Pods = (*Client)(nil)

// NewClient returns a client that knows nothing until Run.
func NewClient(cfg ClientConfig) *Client {
	if cfg.MaxQuestions <= 0 {
		cfg.MaxQuestions = defaultQuestions
	}
	return &Client{
		cfg: cfg, silence: 3 * beat, turns: make(chan struct{}, cfg.MaxQuestions), quick: make(chan struct{}, maxQuick), changed: make(chan struct{}, 1),
		away: fmt.Errorf("%w: it was not asked yet", ErrAway),
	}
}

// Run follows the broker until ctx ends, and returns the context's error. Who asks
// after that is refused.
func (c *Client) Run(ctx context.Context) error {
	defer c.drop(true)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := c.follow(ctx, func() { pause = firstPause })
		c.lost(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// List returns the pods that the broker told of last.
func (c *Client) List() []sandbox.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods
}

// Changed gets a value when List or Ready may have changed.
func (c *Client) Changed() <-chan struct{} { return c.changed }

// Ready tells why the list may be out of date: what the broker says, or ErrAway.
func (c *Client) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away == nil && c.now.trouble != "" {
		return errors.New(c.now.trouble)
	}
	return c.away
}

// Away returns ErrAway with the reason while the broker does not answer, nil while
// it does, whatever it says.
func (c *Client) Away() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away
}

// HostNetwork tells what the broker said last.
func (c *Client) HostNetwork() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.hostNetwork
}

// Find asks the broker for a pod.
func (c *Client) Find(ctx context.Context, uid string, port uint16) (pod sandbox.Pod, denied, err error) {
	a, _, err := c.ask(ctx, question{kind: askFind, port: port, uid: uid})
	if err != nil {
		return sandbox.Pod{}, nil, err
	}
	if a.pod.UID == "" {
		return sandbox.Pod{}, nil, a.err()
	}
	return a.pod, a.err(), nil
}

// Connect asks the broker for a socket.
func (c *Client) Connect(ctx context.Context, uid string, port uint16) (sandbox.Pod, forward.Conn, error) {
	if port == 0 {
		return sandbox.Pod{}, nil, &stream.Error{Code: stream.Malformed, Text: "there is no port 0"}
	}
	a, fd, err := c.ask(ctx, question{kind: askConnect, port: port, uid: uid})
	if err != nil {
		return sandbox.Pod{}, nil, err
	}
	if err := a.err(); err != nil {
		return a.pod, nil, err
	}
	conn, err := netns.Adopt(fd)
	if err != nil {
		return a.pod, nil, fmt.Errorf("take over the broker's socket: %w", err)
	}
	return a.pod, forward.TCP(conn), nil
}

// err is why the broker refused, as a Local would have said it.
func (a *answer) err() error {
	switch wire := (&stream.Error{Code: a.code, Text: a.text}); {
	case a.code == stream.OK:
		return nil
	case a.cause == "":
		return wire
	default:
		return &reach.Error{Wire: wire, Cause: errors.New(a.cause)}
	}
}
