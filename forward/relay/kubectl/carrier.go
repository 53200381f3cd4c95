package kubectl

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// lingerTimeout is how long a client gets to take the last frames and to hang
	// up, so that its end of the connection is not reset with them unread.
	lingerTimeout = 2 * time.Second
	// readSize is the buffer for small frames. Larger pieces pass it by.
	readSize = 16 << 10
	// maxReason bounds the text that a user is shown.
	maxReason = 1 << 10
)

var errLost = errors.New("the client's connection is lost")

// carrier is the connection of one client, and what every protocol on it needs: a
// writer, bounded buffers for what was read, and an eye on whether the client is
// still there.
type carrier struct {
	cfg  *Config
	door string
	user Session
	conn net.Conn
	out  *outbound
	in   *store

	// ping asks the client for a sign of life; goodbye tells it why the session
	// ends, and lets the writer finish.
	ping    func()
	goodbye func(reason string)

	ctx    context.Context // of everything that runs on behalf of this client
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup // one for each forwarded connection

	received atomic.Int64 // bytes
	spoken   atomic.Bool  // the client has sent its first frame, so we may
	held     atomic.Bool  // nothing is read from the client, because we have no room
	open     atomic.Int32 // forwarded connections

	connsMu sync.Mutex
	conns   map[*streamConn]struct{}
}

// newCarrier makes the carrier for a connection that it takes over.
func (h *Handler) newCarrier(ctx context.Context, conn net.Conn, user Session, door string, f framing) *carrier {
	c := &carrier{
		cfg: &h.cfg, door: door, user: user, conn: conn,
		out:   newOutbound(conn, f, &h.batches),
		in:    newStore(&h.blocks, h.cfg.SessionBuffer, &h.budget),
		conns: make(map[*streamConn]struct{}),
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

// counted counts what arrives.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (r counted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n.Add(int64(n))
	return n, err
}

// run serves the client with read, which returns when nothing more comes from it,
// and returns when everything has ended, with the reason. verdict may have a last
// word for the client about the error of read, and then returns true.
func (c *carrier) run(read func() error, verdict func(err error) bool) error {
	var wg sync.WaitGroup
	done, written := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		defer close(written)
		if err := c.out.run(); err != nil {
			c.lose(err)
		}
	})
	wg.Go(func() { c.watch(done) })
	err := read()
	if verdict(err) {
		last := time.NewTimer(lingerTimeout)
		select {
		case <-written:
		case <-last.C:
		}
		last.Stop()
	}
	c.lose(err)
	close(done)
	wg.Wait()
	c.tasks.Wait()
	return context.Cause(c.ctx)
}

// lose ends everything that runs on the connection: the client is gone, and so are
// the ends that it did not send.
func (c *carrier) lose(err error) {
	if err == nil || errors.Is(err, io.EOF) {
		err = errLost
	}
	c.cancel(err)
	err = context.Cause(c.ctx)
	c.abortAll(err)
	c.out.fail(err)
	_ = c.conn.Close()
}

func (c *carrier) abortAll(cause error) {
	for _, conn := range c.all() {
		conn.abort(forward.ResetBy(cause))
	}
}

func (c *carrier) all() []*streamConn {
	c.connsMu.Lock()
	defer c.connsMu.Unlock()
	all := make([]*streamConn, 0, len(c.conns))
	for conn := range c.conns {
		all = append(all, conn)
	}
	return all
}

func (c *carrier) add(id uint32) *streamConn {
	conn := newStreamConn(c.out, id, c.in)
	c.connsMu.Lock()
	defer c.connsMu.Unlock()
	c.conns[conn] = struct{}{}
	return conn
}

func (c *carrier) remove(conn *streamConn) {
	c.connsMu.Lock()
	defer c.connsMu.Unlock()
	delete(c.conns, conn)
}

// dial asks for a connection to the pod.
func (c *carrier) dial(ctx context.Context, port uint16) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	link, err := c.user.Dial(ctx, port, c.door)
	if err == nil && ctx.Err() != nil { // nobody waits for it any more
		_ = link.Close()
		return nil, context.Cause(ctx)
	}
	return link, err
}

// waitRoom waits while too many of our answers wait for the client.
func (c *carrier) waitRoom() {
	c.held.Store(true)
	c.out.waitRoom()
	c.held.Store(false)
}

// over ends the session for a reason that the user is told.
func (c *carrier) over(cause error) {
	if cause == nil {
		cause = &stream.Error{Code: stream.GoingAway, Text: "the session is over"}
	}
	c.goodbye(cut(cause.Error()))
	c.cancel(cause)
	c.linger()
}

// linger gives the client a moment to take the last frames and to hang up.
func (c *carrier) linger() { _ = c.conn.SetDeadline(time.Now().Add(lingerTimeout)) }

// cut bounds a text for people.
func cut(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}
