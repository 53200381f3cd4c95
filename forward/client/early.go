package client

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// maxEarly bounds what goes along with a request, in bytes. What a program says
// beyond it goes the way of everything that it says later.
const maxEarly = 16 << 10

// moment is how long a program that has just connected may take to speak before the
// stream is asked for without its words. Who waits for the other end to speak first
// loses no more than that; in an idle process a timer is a millisecond late.
const moment = 100 * time.Microsecond

// early are the buffers for first words. The zero value is ready.
type early struct{ pool sync.Pool }

func (e *early) borrow() *[maxEarly]byte {
	if b, ok := e.pool.Get().(*[maxEarly]byte); ok {
		return b
	}
	return new([maxEarly]byte)
}

func (e *early) release(b *[maxEarly]byte) { e.pool.Put(b) }

// firstWords returns how much of buf is filled with what a local program has said
// already, or says within a moment. Most speak as soon as they are connected, and
// then their words and the request for the stream are one packet. An error is that
// of a connection which the program has broken off; its end is no error, and is read
// again later.
func firstWords(tc *net.TCPConn, local forward.Conn, buf []byte) (int, error) {
	reader, ok := local.(forward.ReadyReader)
	if !ok {
		return 0, nil
	}
	n, err := reader.ReadReady(buf)
	if n == 0 && err == nil && tc.SetReadDeadline(time.Now().Add(moment)) == nil {
		n, err = local.Read(buf)
		_ = tc.SetReadDeadline(time.Time{})
	}
	if err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}
