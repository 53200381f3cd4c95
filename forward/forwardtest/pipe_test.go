package forwardtest

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-k8s/culvert/forward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func makePipe() (a, b forward.Conn, stop func(), err error) {
	a, b = Pipe()
	return a, b, nil, nil
}

func TestPipe(t *testing.T) {
	TestConn(t, makePipe)
	TestErrReset(t, makePipe)
}

// In a bubble a case that hangs shows at once: only the watchdog's timer can wake anything.
func TestPipeInBubble(t *testing.T) {
	for _, group := range [][]testCase{finishCases, abortCases, unblockCases, lazyCases, frameCases, waitCases, errResetCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := Pipe()
					if err := guard(a, b, nil, c.run); err != nil {
						t.Fatal(err)
					}
				})
			})
		}
	}
}

// A suite is worth what it catches: each of these connections breaks one promise.
func TestSuiteCatches(t *testing.T) {
	tests := []struct {
		name  string
		group []testCase
		spoil func(c forward.Conn) forward.Conn
	}{
		{"abort reads as end", abortCases, func(c forward.Conn) forward.Conn { return abortIsEOF{c} }},
		{"half-close closes all", finishCases, func(c forward.Conn) forward.Conn { return noHalfClose{c} }},
		{"close is always a reset", finishCases, func(c forward.Conn) forward.Conn { return hardClose{c} }},
		{"close is only a finish", abortCases, func(c forward.Conn) forward.Conn { return softClose{c} }},
		{"reset does nothing", unblockCases, func(c forward.Conn) forward.Conn { return noReset{c} }},
		{"end is wrapped", finishCases, func(c forward.Conn) forward.Conn { return wrappedEOF{c} }},
		{"bytes are lost", bulkCases, func(c forward.Conn) forward.Conn { return lossy{c} }},
		{"idle holds a buffer", lazyCases, func(c forward.Conn) forward.Conn { return eager{c} }},
		{"frame changes the payload", frameCases, func(c forward.Conn) forward.Conn { return scribbler{c} }},
		{"wait sees a clean end as abort", waitCases, func(c forward.Conn) forward.Conn { return alarmist{c} }},
		{"wait misses the abort", waitCases, func(c forward.Conn) forward.Conn { return sleeper{c} }},
		{"cause is lost", errResetCases, func(c forward.Conn) forward.Conn { return causeless{c} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			caught := false
			for _, c := range tt.group {
				synctest.Test(t, func(t *testing.T) {
					a, b := Pipe()
					// The pipes beneath are reset from outside, so that a hanging case ends and leaks nothing.
					free := time.AfterFunc(limit+time.Second, func() { _, _ = a.Reset(nil), b.Reset(nil) })
					defer free.Stop()
					caught = guard(tt.spoil(a), tt.spoil(b), nil, c.run) != nil || caught
					_, _ = a.Reset(nil), b.Reset(nil)
				})
			}
			if !caught {
				t.Error("the suite found nothing wrong")
			}
		})
	}
}

type abortIsEOF struct{ forward.Conn }

func (c abortIsEOF) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

type noHalfClose struct{ forward.Conn }

func (c noHalfClose) CloseWrite() error { return c.Reset(nil) }

type hardClose struct{ forward.Conn }

func (c hardClose) Close() error { return c.Reset(nil) }

type softClose struct{ forward.Conn }

func (c softClose) Close() error { return c.CloseWrite() }

type noReset struct{ forward.Conn }

func (c noReset) Reset(error) error { return nil }

type wrappedEOF struct{ forward.Conn }

func (c wrappedEOF) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = errors.Join(err)
	}
	return n, err
}

type lossy struct{ forward.Conn }

func (c lossy) Write(p []byte) (int, error) {
	if len(p) > 1000 {
		_, err := c.Conn.Write(p[1:])
		return len(p), err
	}
	return c.Conn.Write(p)
}

type eager struct{ forward.Conn }

func (c eager) ReadLazy(borrow func() []byte, release func()) (int, error) {
	n, err := c.Read(borrow())
	if n == 0 {
		release()
	}
	return n, err
}

type scribbler struct{ forward.Conn }

func (c scribbler) WriteFrame(b []byte) (int, error) {
	n, err := c.Write(b[forward.Headroom:])
	for i := range b {
		b[i] = 0
	}
	return n, err
}

type causeless struct{ forward.Conn }

func (c causeless) Reset(error) error { return c.Conn.Reset(nil) }

type alarmist struct{ forward.Conn }

func (c alarmist) WaitAbort() error { return forward.ErrReset }

type sleeper struct{ forward.Conn }

func (c sleeper) WaitAbort() error { return nil }
