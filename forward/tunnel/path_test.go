package tunnel

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// longLink is a connection on which everything takes a while, however much it is.
type longLink struct {
	net.Conn
	queue chan parcel
}

type parcel struct {
	due  time.Time
	data []byte
}

func newLongLink(c net.Conn, delay time.Duration) net.Conn {
	l := &longLink{Conn: c, queue: make(chan parcel, 1<<16)}
	go func() {
		for p := range l.queue {
			time.Sleep(time.Until(p.due) + delay)
			if _, err := c.Write(p.data); err != nil {
				return
			}
		}
	}()
	return l
}

func (l *longLink) Write(p []byte) (int, error) {
	l.queue <- parcel{time.Now(), bytes.Clone(p)}
	return len(p), nil
}

func (l *longLink) Close() error {
	l.queue <- parcel{} // nobody writes any more but the farewell
	return l.Conn.Close()
}

// One stream fills a long path, and what its window grew by is given back.
func TestWindowGrowsOnALongPath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mem Memory
		const delay = 25 * time.Millisecond
		client, server := pipeSessions(t, Config{Memory: &mem}, func(c net.Conn) net.Conn { return newLongLink(c, delay) })
		a, b := streams(t, client, server)
		const n = 200 << 20
		go func() {
			source(a, n)
			a.CloseWrite()
		}()
		began := time.Now()
		if got, err := io.Copy(io.Discard, b); got != n || err != nil {
			t.Fatal(got, err)
		}
		if took := time.Since(began); took > 3*time.Second { // 20 s with the window it began with
			t.Errorf("it took %v", took)
		}
		if w := b.in.window; w > 16<<20 || mem.grown.Load() != int64(w-lanWindow) {
			t.Errorf("window of %d, %d counted", w, mem.grown.Load())
		}
		a.Close()
		b.Close()
		if mem.grown.Load() != 0 {
			t.Errorf("%d bytes are not given back", mem.grown.Load())
		}
		client.Close()
		server.Close()
		time.Sleep(time.Second)
	})
}

func TestWindowsStayWithinTheirBudget(t *testing.T) {
	var m Memory
	held := 0
	for m.reserve(16 << 20) {
		held++
	}
	if held != windowBudget/(16<<20) {
		t.Errorf("%d windows", held)
	}
	for range held {
		m.release(16 << 20)
	}
	if m.grown.Load() != 0 || !m.reserve(windowBudget) || m.reserve(1) {
		t.Error("the budget does not come back whole")
	}
}
