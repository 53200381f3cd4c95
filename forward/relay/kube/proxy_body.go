package kube

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// copySize is how much of an answer is copied at once.
const copySize = 32 << 10

// movingBody is the body of a request that must go on. What of it nobody wants is
// discarded by the server under the same limit.
type movingBody struct {
	io.ReadCloser
	control *http.ResponseController
	idle    time.Duration // it may stand still for so long

	mu  sync.Mutex
	err error
}

// Read implements io.Reader.
func (b *movingBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(b.idle)) // where it cannot be set there is no limit
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{}) // the server now listens whether the client leaves
		return n, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	return n, err
}

// failed returns why the body broke off, or nil.
func (b *movingBody) failed() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// limit bounds what is still to be read and written of a request. net/http lifts it
// before the next one on the connection.
func limit(w http.ResponseWriter, d time.Duration) {
	control, until := http.NewResponseController(w), time.Now().Add(d)
	_ = control.SetReadDeadline(until)
	_ = control.SetWriteDeadline(until)
}

// buffers are those of ReverseProxy.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { return new([copySize]byte) }}}
}

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.pool.Get().(*[copySize]byte)[:] } //nolint:forcetypeassert // ours

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put((*[copySize]byte)(p)) }
