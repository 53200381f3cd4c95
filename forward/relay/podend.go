package relay

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// podEnd is the pod's end of a link: it counts, and its errors say what they mean
// in the words of the protocol, so that they are told from the client's.
type podEnd struct {
	*tunnel.Conn
	link     *Link
	finished atomic.Bool // the pod was told that the client has finished
}

var (
	_ forward.Conn        = (*podEnd)(nil)
	_ forward.LazyReader  = (*podEnd)(nil)
	_ forward.PushReader  = (*podEnd)(nil)
	_ forward.FrameWriter = (*podEnd)(nil)
	_ forward.AbortWaiter = (*podEnd)(nil)
)

// Read reads what the pod sent.
func (p *podEnd) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.link.srv.metrics.down.Add(n)
	return n, p.named(err)
}

// ReadLazy is Read without a buffer while there is nothing to read.
func (p *podEnd) ReadLazy(borrow func() []byte, release func()) (int, error) {
	n, err := p.Conn.ReadLazy(borrow, release)
	p.link.srv.metrics.down.Add(n)
	return n, p.named(err)
}

// ReadPush is ReadLazy that passes small answers on at once.
func (p *podEnd) ReadPush(borrow func() []byte, release func(), push func([]byte) int) (int, error) {
	count := push
	if push != nil {
		count = func(b []byte) int {
			n := push(b)
			p.link.srv.metrics.down.Add(n)
			return n
		}
	}
	n, err := p.Conn.ReadPush(borrow, release, count)
	p.link.srv.metrics.down.Add(n)
	return n, p.named(err)
}

// Write writes to the pod.
func (p *podEnd) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	p.link.srv.metrics.up.Add(n)
	return n, p.named(err)
}

// WriteFrame is Write without a copy.
func (p *podEnd) WriteFrame(b []byte) (int, error) {
	n, err := p.Conn.WriteFrame(b)
	p.link.srv.metrics.up.Add(n)
	return n, p.named(err)
}

// CloseWrite tells the pod that the client has finished.
func (p *podEnd) CloseWrite() error {
	err := p.Conn.CloseWrite()
	p.finished.Store(err == nil)
	return p.named(err)
}

// WaitAbort waits for an abort after the pod has finished.
func (p *podEnd) WaitAbort() error { return p.named(p.Conn.WaitAbort()) }

// Reset aborts. The agent is told the code, and of a client's own errors no more
// than that: they speak of addresses.
func (p *podEnd) Reset(cause error) error {
	if v := ofJoin(cause); cause != nil {
		cause = &stream.Error{Code: v.code, Text: v.text}
		if v.code == stream.Canceled {
			cause = &stream.Error{Code: v.code, Text: "client broke off"}
		}
	}
	return p.Conn.Reset(cause)
}

// named gives an error its code.
func (p *podEnd) named(err error) error {
	if err == nil || err == io.EOF { // bare by contract
		return err
	}
	if said := (*stream.Error)(nil); errors.As(err, &said) {
		return err
	}
	node := "node " + p.link.flow.place().Node
	if errors.Is(err, tunnel.ErrLost) {
		return fmt.Errorf("%w: %w", &stream.Error{Code: stream.Unreachable, Text: "lost the way to the " + node}, err)
	}
	return fmt.Errorf("%w: %w", &stream.Error{Code: stream.Canceled, Text: node + " broke off"}, err)
}
