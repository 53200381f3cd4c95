package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// wire is a connection that keeps what is written to it, write by write.
type wire struct {
	net.Conn
	before func() // called in each write

	mu     sync.Mutex
	writes [][]byte
	fail   error
}

func (w *wire) Write(p []byte) (int, error) {
	if w.before != nil {
		w.before()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return 0, w.fail
	}
	w.writes = append(w.writes, bytes.Clone(p))
	if w.Conn != nil {
		return w.Conn.Write(p)
	}
	return len(p), nil
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.writes)
}

func (w *wire) Close() error {
	if w.Conn == nil {
		return nil
	}
	return w.Conn.Close()
}

// outboundOn returns an outbound that runs on w, and what ends it.
func outboundOn(w net.Conn) (o *outbound, stop func()) {
	rec := newRecordConn(w)
	o = newOutbound(rec, rec, func(error) {})
	done := make(chan struct{})
	go func() { defer close(done); o.run() }()
	return o, func() { o.fail(net.ErrClosed); o.close(); <-done }
}

// checkOutbound plays a schedule: one goroutine writes frames,
// others inject, and the connection takes its time.
func checkOutbound(t *testing.T, seed uint64, frames int) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	const mark = 0xfeedface
	var o *outbound
	pauses := rand.New(rand.NewPCG(seed, 1))
	w := &wire{before: func() {
		time.Sleep(time.Duration(pauses.IntN(400)) * time.Microsecond)
		o.mu.Lock()
		defer o.mu.Unlock()
		if limit := batchLimit + 60*muxHeader; len(o.buf) > limit {
			t.Errorf("%d bytes wait, want at most %d", len(o.buf), limit)
		}
	}}
	o, stop := outboundOn(w)
	var want []byte
	injected := make(chan int, 1)
	go func() {
		r := rand.New(rand.NewPCG(seed, 2))
		n := r.IntN(10)
		for range n {
			time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
			o.inject(muxControl(typeWindow, flagRST, mark, 0))
		}
		injected <- n
	}()
	flags := []uint16{0, flagSYN, flagACK, flagFIN, flagFIN | flagACK}
	for i := range frames {
		if rnd.IntN(3) == 0 {
			time.Sleep(time.Duration(rnd.IntN(700)) * time.Microsecond)
		}
		if rnd.IntN(3) == 0 {
			f := muxControl(typeWindow, flags[rnd.IntN(len(flags))], uint32(i), 0)
			want = append(want, f...)
			o.Write(f)
			continue
		}
		if rnd.IntN(3) == 0 {
			want = append(want, sendStraight(t, o, rnd, i)...)
			continue
		}
		n := []int{1, 4, 12, 100, inlineLimit - muxHeader, inlineLimit, 5000, muxFrame, muxFrame}[rnd.IntN(9)]
		h := muxControl(typeData, 0, uint32(i), uint32(n))
		body := bytes.Repeat([]byte{byte(i)}, n)
		want = append(append(want, h...), body...)
		o.frame(uint32(i), body, rnd.IntN(4) == 0)
	}
	n := <-injected
	if !o.drain(time.Hour) {
		t.Error("not drained")
	}
	queued, sent := o.progress()
	stop()
	if queued != sent || queued != int64(len(want)+n*muxHeader) {
		t.Errorf("%d bytes queued, %d sent", queued, sent)
	}
	var all []byte
	for _, p := range w.writes {
		rest, _, err := without(p, mark)
		if err != nil {
			t.Fatalf("a write does not end with a frame: %v", err)
		}
		all = append(all, rest...)
	}
	if !bytes.Equal(all, want) {
		t.Errorf("%d bytes on the wire, want %d, or others", len(all), len(want))
	}
	if _, found, _ := without(bytes.Join(w.writes, nil), mark); found != n {
		t.Errorf("%d frames injected, %d came out", n, found)
	}
}

// sendStraight sends chunks of the sizes that come in, or a whole buffer, and returns
// what is to be on the wire for them.
func sendStraight(t *testing.T, o *outbound, rnd *rand.Rand, id int) (want []byte) {
	var head *chunk
	total := 0
	for next := &head; total < straightLimit && (total == 0 || rnd.IntN(3) > 0); next = &(*next).next {
		n := 1 + rnd.IntN(straightLimit-total)
		if rnd.IntN(3) > 0 {
			n = min(n, muxFrame)
		}
		c := &chunk{buf: make([]byte, muxHeader+n), r: muxHeader, w: muxHeader + n}
		pattern(int64(total), c.rest())
		*next = c
		total += n
	}
	part := 1 + rnd.IntN(total) // credit may end anywhere
	for left, c := part, head; left > 0; c = c.next {
		for b := c.rest()[:min(left, c.w-c.r)]; len(b) > 0; {
			n := min(len(b), muxFrame)
			want = append(append(want, muxControl(typeData, 0, uint32(id), uint32(n))...), b[:n]...)
			b = b[n:]
			left -= n
		}
	}
	o.straight(uint32(id), head, part)
	read, at := 0, int64(0)
	for c := head; c != nil; c = c.next {
		read += c.r - muxHeader
		mine := make([]byte, c.w-muxHeader)
		pattern(at, mine)
		if at += int64(len(mine)); !bytes.Equal(c.buf[muxHeader:], mine) {
			t.Error("what was sent has been changed")
		}
	}
	if read != part {
		t.Errorf("%d bytes are taken for sent, want %d", read, part)
	}
	return want
}

func TestOutboundKeepsOrderAndFrames(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) { checkOutbound(t, seed, 60) })
	}
}

func FuzzOutbound(f *testing.F) {
	f.Add(uint64(1), uint8(10))
	f.Fuzz(func(t *testing.T, seed uint64, frames uint8) {
		synctest.Test(t, func(t *testing.T) { checkOutbound(t, seed, int(frames)) })
	})
}

// The same with real goroutines, for the race detector.
func TestOutboundUnderContention(t *testing.T) {
	for seed := range uint64(3) {
		checkOutbound(t, 1000+seed, 100)
	}
}

func TestFrameThatExpectsCompanyLeavesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		o, stop := outboundOn(w)
		defer stop()
		o.Write(muxControl(typeWindow, flagSYN, 1, 0))
		time.Sleep(companyWait - time.Nanosecond)
		synctest.Wait()
		if w.count() != 0 {
			t.Error("it did not wait")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if w.count() != 1 {
			t.Error("it still waits")
		}
	})
}

func TestDataNextToInjectedFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		w := &wire{before: func() { <-open }}
		o, stop := outboundOn(w)
		defer stop()
		done := make(chan struct{}, 10)
		for i := range cap(done) {
			go func() { o.frame(uint32(i), make([]byte, muxFrame), false); done <- struct{}{} }()
		}
		synctest.Wait()
		for range 100 {
			o.inject(muxControl(typeWindow, flagRST, 99, 0))
		}
		close(open)
		for range cap(done) {
			<-done
		}
		o.drain(time.Minute)
		rest, found, err := without(bytes.Join(w.writes, nil), 99)
		if err != nil || found != 100 || len(rest) != 10*(muxFrame+muxHeader) {
			t.Errorf("%d bytes, %d injected, %v", len(rest), found, err)
		}
	})
}

// A peer that reads nothing and has much to be told ends its session, and fills
// no memory.
func TestControlFramesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		defer close(open)
		reported := make(chan error, 10)
		rec := newRecordConn(&wire{before: func() { <-open }})
		o := newOutbound(rec, rec, func(err error) { reported <- err })
		go o.run()
		defer o.close()
		for range 2 * (batchLimit + controlLimit) / muxHeader {
			o.inject(muxControl(typeWindow, 0, 1, 1))
		}
		if err := <-reported; !errors.Is(err, errUnread) || len(reported) != 0 || len(o.buf) > batchLimit+controlLimit {
			t.Errorf("%v, %d more errors, %d bytes", err, len(reported), len(o.buf))
		}
	})
}

func TestOutboundErrorLetsWritersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		w := &wire{fail: broken, before: func() { time.Sleep(time.Second) }}
		reported := make(chan error, 10)
		rec := newRecordConn(w)
		o := newOutbound(rec, rec, func(err error) { reported <- err })
		ended := make(chan struct{})
		go func() { defer close(ended); o.run() }()
		for range 100 {
			o.frame(1, make([]byte, muxFrame), false)
			if _, err := o.Write(muxControl(typeWindow, 0, 1, 0)); err != nil {
				t.Fatal("yamux must not learn of it here: ", err)
			}
		}
		if err := <-reported; !errors.Is(err, broken) {
			t.Error(err)
		}
		if o.drain(time.Minute) {
			t.Error("drained a broken connection")
		}
		o.close()
		<-ended
		if len(reported) != 0 {
			t.Error("reported twice")
		}
	})
}

// An open, its first bytes and the end of a stream take one write each.
func TestFramesThatBelongTogetherLeaveTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x, y := net.Pipe()
		w := &wire{Conn: x}
		client, server := sessions(t, Plain(w), Plain(y), Config{})
		taken := func() (writes [][]byte) {
			time.Sleep(time.Second)
			w.mu.Lock()
			defer w.mu.Unlock()
			writes, w.writes = w.writes, nil
			return writes
		}
		taken()
		a, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := NewConn(a)
		c.Write([]byte("first"))
		b, err := server.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := taken(); len(got) != 1 || binary.BigEndian.Uint16(got[0][2:])&flagSYN == 0 || !bytes.HasSuffix(got[0], []byte("first")) {
			t.Errorf("opening and the first bytes: %q, want one write", got)
		}
		c.CloseWrite()
		got := taken()
		if len(got) != 1 || len(got[0]) != 2*muxHeader+stream.HeaderSize {
			t.Errorf("end mark and end: %q, want one write", got)
		}
		b.Close()
		c.Close()
		client.Close()
		server.Close()
	})
}
