package tunnel

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// longLink is a connection on which everything takes a while, however much it is.
type longLink struct {
	net.Conn
	delay *atomic.Int64 // in nanoseconds
	queue chan parcel
}

type parcel struct {
	due  time.Time
	data []byte
}

func newLongLink(c net.Conn, delay *atomic.Int64) net.Conn {
	l := &longLink{Conn: c, delay: delay, queue: make(chan parcel, 1<<16)}
	go func() {
		for p := range l.queue {
			time.Sleep(time.Until(p.due))
			if _, err := c.Write(p.data); err != nil {
				return
			}
		}
	}()
	return l
}

func (l *longLink) Write(p []byte) (int, error) {
	l.queue <- parcel{time.Now().Add(time.Duration(l.delay.Load())), bytes.Clone(p)}
	return len(p), nil
}

func (l *longLink) Close() error {
	l.queue <- parcel{} // nobody writes any more but the farewell
	return l.Conn.Close()
}

// One stream fills a long path, also one that was short before, and what its window
// grew by is given back.
func TestWindowGrowsOnALongPath(t *testing.T) {
	for name, before := range map[string]time.Duration{"from the start": 25 * time.Millisecond, "after it was short": 100 * time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var mem Memory
				var delay atomic.Int64
				delay.Store(int64(before))
				client, server := pipeSessions(t, Config{Memory: &mem}, func(c net.Conn) net.Conn { return newLongLink(c, &delay) })
				a, b := streams(t, client, server)
				transfer(t, a, b, 20<<20, &mem)
				time.Sleep(2 * pathMemory)
				delay.Store(int64(25 * time.Millisecond))

				a, b = streams(t, client, server)
				took, window := transfer(t, a, b, 200<<20, &mem)
				if took > time.Second { // 20 s with the window it began with
					t.Errorf("it took %v", took)
				}
				if window > 32<<20 {
					t.Errorf("window of %d", window)
				}
				a, b = streams(t, client, server)
				if took, _ := transfer(t, a, b, 200<<20, &mem); took > 600*time.Millisecond {
					t.Errorf("the second took %v", took)
				}
				if mem.grown.Load() != 0 {
					t.Errorf("%d bytes are not given back", mem.grown.Load())
				}
				client.Close()
				server.Close()
				time.Sleep(time.Second)
			})
		})
	}
}

// transfer sends n bytes from a to b and closes both. It returns how long that took,
// and what the window of b was at the end.
func transfer(t *testing.T, a, b *Stream, n int64, mem *Memory) (took time.Duration, window int) {
	t.Helper()
	go func() {
		source(a, n)
		a.CloseWrite()
	}()
	began := time.Now()
	if got, err := io.Copy(io.Discard, b); got != n || err != nil {
		t.Fatal(got, err)
	}
	took, window = time.Since(began), b.in.window
	if mem.grown.Load() != int64(window-lanWindow) {
		t.Errorf("window of %d, %d counted", window, mem.grown.Load())
	}
	a.Close()
	b.Close()
	return took, window
}

func TestWindowsStayWithinTheirBudget(t *testing.T) {
	var m Memory
	held := 0
	for m.reserve(16 << 20) {
		held++
	}
	if held != usualLimit/2/(16<<20) {
		t.Errorf("%d windows", held)
	}
	for range held {
		m.release(16 << 20)
	}
	if m.grown.Load() != 0 || !m.reserve(usualLimit/2) || m.reserve(1) {
		t.Error("the budget does not come back whole")
	}
}
