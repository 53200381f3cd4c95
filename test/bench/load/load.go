// Package load puts load on a forwarded port and says how it was borne: transfers,
// requests, echoes. Its other end is the program in test/bench/pod.
package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The ports of the pod.
const (
	PortTransfer = 7100
	PortEcho     = 7101
	PortHTTP     = 8080
)

const (
	// FromClient marks a transfer from the client to the pod.
	FromClient = 1 << 63
	// AnswerSize is the size of the pod's HTTP answers without their header.
	AnswerSize = 100
	// Request is what is sent on a connection that stays, or that the client ends.
	Request = "GET / HTTP/1.1\r\nHost: pod\r\nUser-Agent: bench\r\n\r\n"
	// OnlyRequest is what is sent on a connection that the pod ends after its answer.
	OnlyRequest = "GET / HTTP/1.1\r\nHost: pod\r\nUser-Agent: bench\r\nConnection: close\r\n\r\n"
	// transferBuffer is how much the client reads or writes at once.
	transferBuffer = 256 << 10
)

// Dialer opens connections to the pod over the way under test.
type Dialer func(ctx context.Context) (net.Conn, error)

// bind has a connection obey ctx, until the function it returns is called.
func bind(ctx context.Context, conn net.Conn) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// open dials, and binds the connection to ctx.
func open(ctx context.Context, dial Dialer) (net.Conn, func(), error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	release := bind(ctx, conn)
	return conn, func() { release(); _ = conn.Close() }, nil
}

// Transfer moves n bytes in all on so many connections at once, up to the pod or
// down from it, and returns bytes per second. The connections are made and
// have carried a byte before the clock starts.
func Transfer(ctx context.Context, dial Dialer, streams int, n int64, up bool) (perSecond float64, err error) {
	conns := make([]net.Conn, streams)
	for i := range conns {
		conn, done, err := open(ctx, dial)
		if err != nil {
			return 0, fmt.Errorf("open stream %d: %w", i+1, err)
		}
		defer done()
		conns[i] = conn
		if err := transfer(conn, 1, up, make([]byte, 1)); err != nil {
			return 0, fmt.Errorf("warm stream %d: %w", i+1, err)
		}
	}
	share := n / int64(streams)
	buffers := make([][]byte, streams)
	for i := range buffers {
		buffers[i] = make([]byte, transferBuffer)
	}
	var g errgroup.Group
	began := time.Now()
	for i, conn := range conns {
		g.Go(func() error { return transfer(conn, share, up, buffers[i]) })
	}
	if err := g.Wait(); err != nil {
		return 0, fmt.Errorf("transfer: %w", err)
	}
	return float64(share*int64(streams)) / time.Since(began).Seconds(), nil
}

// transfer moves n bytes over a connection.
func transfer(conn net.Conn, n int64, up bool, buf []byte) error {
	var head [8]byte
	ask := uint64(n)
	if up {
		ask |= FromClient
	}
	binary.BigEndian.PutUint64(head[:], ask)
	if _, err := conn.Write(head[:]); err != nil {
		return err
	}
	for n > 0 {
		part, move := buf[:min(n, int64(len(buf)))], conn.Read
		if up {
			move = conn.Write
		}
		moved, err := move(part)
		n -= int64(moved)
		if err != nil && n > 0 {
			return err
		}
	}
	if up {
		_, err := io.ReadFull(conn, head[:1])
		return err
	}
	return nil
}

// Stall asks the pod for more than can be under way, and reads nothing of it until
// the returned function is called.
func Stall(ctx context.Context, dial Dialer) (release func(), err error) {
	conn, done, err := open(ctx, dial)
	if err != nil {
		return nil, fmt.Errorf("open stalled stream: %w", err)
	}
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], 4<<30)
	if _, err := conn.Write(head[:]); err != nil {
		done()
		return nil, fmt.Errorf("open stalled stream: %w", err)
	}
	return done, nil
}

// Tally is how requests were answered.
type Tally struct {
	// Seconds are the times that each took, in no order.
	Seconds []float64
	// PerSecond is how many there were in a second.
	PerSecond float64
}

// repeat has workers do something until the time is over, or each has done it
// limit times unless that is 0. start makes what a worker needs.
func repeat(ctx context.Context, workers, limit int, d time.Duration, start func(context.Context) (once func() error, end func(), err error)) (Tally, error) {
	var (
		mu  sync.Mutex
		all Tally
		g   errgroup.Group
	)
	steps := make([]func() error, workers)
	for i := range steps {
		once, end, err := start(ctx)
		if err != nil {
			return Tally{}, err
		}
		defer end()
		steps[i] = once
	}
	began := time.Now()
	for _, once := range steps {
		g.Go(func() error {
			var mine []float64
			for time.Since(began) < d && (limit == 0 || len(mine) < limit) {
				from := time.Now()
				if err := once(); err != nil {
					return fmt.Errorf("request %d: %w", len(mine)+1, err)
				}
				mine = append(mine, time.Since(from).Seconds())
			}
			mu.Lock()
			defer mu.Unlock()
			all.Seconds = append(all.Seconds, mine...)
			return nil
		})
	}
	err := g.Wait()
	all.PerSecond = float64(len(all.Seconds)) / time.Since(began).Seconds()
	return all, err
}

// KeepAlive sends requests one after the other on each of so many connections.
func KeepAlive(ctx context.Context, dial Dialer, conns, limit int, d time.Duration) (Tally, error) {
	return repeat(ctx, conns, limit, d, func(ctx context.Context) (func() error, func(), error) {
		conn, done, err := open(ctx, dial)
		if err != nil {
			return nil, nil, err
		}
		r := bufio.NewReader(conn)
		once := func() error { return ask(conn, r, Request) }
		if err := once(); err != nil { // the connection reaches the pod
			done()
			return nil, nil, err
		}
		return once, done, nil
	})
}

// Fresh sends each request on a connection of its own, from so many workers, and
// ends the connection when the answer is there, as curl does.
func Fresh(ctx context.Context, dial Dialer, workers, limit int, d time.Duration) (Tally, error) {
	return fresh(ctx, dial, Request, workers, limit, d)
}

// FreshToEnd is Fresh, but the pod ends each connection, and that is waited for.
func FreshToEnd(ctx context.Context, dial Dialer, workers, limit int, d time.Duration) (Tally, error) {
	return fresh(ctx, dial, OnlyRequest, workers, limit, d)
}

func fresh(ctx context.Context, dial Dialer, request string, workers, limit int, d time.Duration) (Tally, error) {
	return repeat(ctx, workers, limit, d, func(ctx context.Context) (func() error, func(), error) {
		r := bufio.NewReader(nil)
		return func() error {
			conn, done, err := open(ctx, dial)
			if err != nil {
				return err
			}
			defer done()
			r.Reset(conn)
			return ask(conn, r, request)
		}, func() {}, nil
	})
}

// Ping sends single bytes to and fro on one connection.
func Ping(ctx context.Context, dial Dialer, limit int, d time.Duration) (Tally, error) {
	return repeat(ctx, 1, limit, d, func(ctx context.Context) (func() error, func(), error) {
		conn, done, err := open(ctx, dial)
		if err != nil {
			return nil, nil, err
		}
		var b [1]byte
		once := func() error {
			if _, err := conn.Write(b[:]); err != nil {
				return err
			}
			_, err := io.ReadFull(conn, b[:])
			return err
		}
		if err := once(); err != nil {
			done()
			return nil, nil, err
		}
		return once, done, nil
	})
}

// ask sends a request and reads its answer, and the end if there is nothing more.
func ask(conn net.Conn, r *bufio.Reader, request string) error {
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	if err == nil && (n != AnswerSize || answer.StatusCode != http.StatusOK) {
		err = fmt.Errorf("status %d, %d bytes", answer.StatusCode, n)
	}
	if err == nil && request == OnlyRequest {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// Hold opens streams and has each carry a byte, so many at a time, and keeps them
// open until the returned function is called. It returns how many there are when
// no more can be opened, and why that is.
func Hold(ctx context.Context, dial Dialer, streams, workers int) (opened int, release func(), why error) {
	var (
		mu   sync.Mutex
		ends []func()
	)
	g, opening := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for range streams {
		if opening.Err() != nil {
			break
		}
		g.Go(func() error {
			conn, err := dial(opening)
			if err != nil {
				return err
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			var b [1]byte
			_, err = conn.Write(b[:])
			if err == nil {
				_, err = io.ReadFull(conn, b[:])
			}
			if err != nil {
				_ = conn.Close()
				return err
			}
			_ = conn.SetDeadline(time.Time{})
			mu.Lock()
			defer mu.Unlock()
			ends = append(ends, func() { _ = conn.Close() })
			return nil
		})
	}
	why = g.Wait()
	return len(ends), func() {
		for _, end := range ends {
			end()
		}
	}, why
}
