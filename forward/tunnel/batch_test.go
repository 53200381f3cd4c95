package tunnel

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
)

// A large frame is a record of its own, whatever lies before and behind it: only so can
// the receiver leave it where it is.
func TestRecordOfFrames(t *testing.T) {
	control := muxControl(typeWindow, flagSYN, 1, 1<<30) // the value is no length
	data := func(n int) []byte {
		return append(muxControl(typeData, 0, 1, uint32(n)), make([]byte, n)...)
	}
	small, half := data(100), data(bigChunk/2)
	for name, tc := range map[string]struct {
		frames [][]byte
		want   []int
	}{
		"one control frame":       {[][]byte{control}, []int{12}},
		"small ones share":        {[][]byte{control, small, control}, []int{12 + 112 + 12}},
		"a whole one":             {[][]byte{data(muxFrame)}, []int{bigChunk}},
		"a whole one among small": {[][]byte{small, data(muxFrame), control}, []int{112, bigChunk, 12}},
		"two large":               {[][]byte{half, half}, []int{len(half), len(half)}},
		"more than one record":    {slices.Repeat([][]byte{data(5000)}, 4), []int{3 * 5012, 5012}},
		"cut short":               {[][]byte{data(muxFrame)[:500]}, []int{500}},
		"longer than a record":    {[][]byte{data(3 * muxFrame)}, []int{3*muxFrame + 12}},
		"part of a header":        {[][]byte{small, control[:5]}, []int{112, 5}},
		"no length there can be":  {[][]byte{muxControl(typeData, 0, 1, ^uint32(0))}, []int{12}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []int
			for b := bytes.Join(tc.frames, nil); len(b) > 0; {
				n := record(b)
				got = append(got, n)
				b = b[n:]
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("records of %v bytes, want %v", got, tc.want)
			}
		})
	}
}

// Who has lent something gets it back when the connection is lost, whether it was
// about to be sealed or not.
func TestLoansEndWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		w := &wire{before: func() { <-stuck }, fail: net.ErrClosed}
		rec := newRecordConn(w)
		reported := make(chan error, 1)
		o := newOutbound(rec, rec, func(err error) { reported <- err })
		ran := result(func() error { o.run(); return nil })
		var sent []<-chan error
		for id := range uint32(6) { // the first writes, two lend, and there is no room for the others
			sent = append(sent, result(func() error {
				c := &chunk{buf: make([]byte, muxHeader+100<<10), r: muxHeader, w: muxHeader + 100<<10}
				o.straight(id, c, 100<<10, make(chan struct{}, 1))
				return nil
			}))
		}
		synctest.Wait()
		o.mu.Lock()
		lent := len(o.next.loans)
		o.mu.Unlock()
		if lent != 2 {
			t.Errorf("%d loans wait, want 2", lent)
		}
		close(stuck)
		for _, s := range sent {
			<-s
		}
		if err := <-reported; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		o.close()
		<-ran
	})
}
