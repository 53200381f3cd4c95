package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// errStale is a connection to a broker that is not there any more: it has not seen
// the question.
var errStale = errors.New("connection to a broker that has ended")

// line is a connection for questions, one after the other, with room for one.
type line struct {
	*net.UnixConn
	buf [maxAnswer]byte
}

// ask asks one question. A descriptor comes only with the code 0 of askConnect, and
// is the caller's. The error has a code, unless ctx was cancelled.
func (c *Client) ask(ctx context.Context, q question) (answer, int, error) {
	leave, err := c.enter(ctx)
	if err != nil {
		return answer{}, -1, unasked(ctx, "wait for a turn at the broker", err, stream.Overloaded, "the node dials as many pods as it may at once")
	}
	defer leave()
	for {
		conn, used, err := c.get()
		if err == nil {
			var a answer
			var fd int
			if a, fd, err = c.askOn(ctx, conn, q); err == nil {
				c.put(conn)
				return a, fd, nil
			}
			_ = conn.Close()
			if used && errors.Is(err, errStale) {
				continue
			}
		}
		return answer{}, -1, unasked(ctx, "ask the broker", err, stream.Unreachable, "the agent's broker does not answer; try again")
	}
}

// enter waits for a turn, which ends with leave. The error is that of ctx.
func (c *Client) enter(ctx context.Context) (leave func(), err error) {
	for _, turns := range []chan struct{}{c.turns, c.quick} {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			if turns == c.quick {
				<-c.turns
			}
			return nil, ctx.Err()
		}
	}
	slow := time.AfterFunc(quickTime, func() { <-c.quick })
	return func() {
		if slow.Stop() {
			<-c.quick
		}
		<-c.turns
	}, nil
}

// unasked is the error of a question that nobody answered.
func unasked(ctx context.Context, step string, err error, code stream.Code, text string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: %w", step, ctx.Err())
	}
	return &reach.Error{Wire: &stream.Error{Code: code, Text: text}, Cause: fmt.Errorf("%s: %w", step, err)}
}

// askOn asks on a connection, which is of no use any more after an error.
func (c *Client) askOn(ctx context.Context, conn *line, q question) (a answer, fd int, err error) {
	end, limited := ctx.Deadline()
	if !limited {
		end = time.Now().Add(time.Minute)
	}
	// The broker is to give up first, because it can say on what.
	q.wait = time.Until(end) / 10 * 9
	if err := conn.SetDeadline(end); err != nil {
		return answer{}, -1, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(appendQuestion(conn.buf[:0], q)); err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ENOTCONN) {
			err = errStale
		}
		return answer{}, -1, err
	}
	msg, fd, err := receive(conn.UnixConn, conn.buf[:])
	if err != nil {
		return answer{}, -1, err
	}
	a, err = readAnswer(msg)
	if promised := a.code == stream.OK && q.kind == askConnect; err == nil && promised != (fd >= 0) {
		err = errMalformed
	}
	if err == nil && !stop() {
		err = ctx.Err() // the deadline of conn is spoilt
	}
	if err != nil && fd >= 0 {
		_ = syscall.Close(fd)
		fd = -1
	}
	return a, fd, err
}

// get returns a connection, and whether it was used before.
func (c *Client) get() (conn *line, used bool, err error) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return nil, false, net.ErrClosed
	}
	if n := len(c.idle); n > 0 {
		conn = c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.rest = min(c.rest, n-1)
	}
	c.mu.Unlock()
	if conn != nil {
		return conn, true, nil
	}
	fresh, err := c.dial()
	if err != nil {
		return nil, false, err
	}
	return &line{UnixConn: fresh}, false, nil
}

func (c *Client) dial() (*net.UnixConn, error) {
	conn, err := net.DialUnix(network, nil, &net.UnixAddr{Net: network, Name: c.cfg.Socket})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	return conn, nil
}

// put keeps a connection for the next question. There are never more of them than
// questions were under way, and prune takes them away.
func (c *Client) put(conn *line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		_ = conn.Close()
		return
	}
	c.idle = append(c.idle, conn)
}

// prune lets connections go that nobody has needed since it was called last.
func (c *Client) prune() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := max(0, min(c.rest, len(c.idle)-1))
	for _, conn := range c.idle[:n] {
		_ = conn.Close()
	}
	c.idle = slices.Delete(c.idle, 0, n)
	c.rest = len(c.idle)
}

// drop lets all connections go that nobody asks on.
func (c *Client) drop(over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = c.over || over
	for _, conn := range c.idle {
		_ = conn.Close()
	}
	c.idle, c.rest = nil, 0
}

// follow hears of the pods until the broker or ctx ends. It never returns nil.
func (c *Client) follow(ctx context.Context, heard func()) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := conn.Write(appendQuestion(nil, question{kind: askFollow})); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	var fresh list
	buf := make([]byte, maxMessage)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(c.silence))
		n, err := conn.Read(buf)
		switch {
		case isTimeout(err):
			return errSilent
		case err != nil:
			return fmt.Errorf("%w: %w", ErrAway, err)
		}
		if err := c.hear(buf[:n], &fresh); err != nil {
			return fmt.Errorf("%w: %w", ErrAway, err)
		}
		heard()
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
