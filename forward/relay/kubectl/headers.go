package kubectl

import (
	"bytes"
	"io"
	"net/http"

	"github.com/moby/spdystream/spdy"
)

const (
	// maxHeaders and maxHeaderField bound what a header block may decompress to:
	// 64 KiB in all. kubectl sends three headers.
	maxHeaders     = 32
	maxHeaderField = 1 << 10

	// minSynStream and minHeaders are the bytes before the header block.
	minSynStream = 10
	minHeaders   = 4
)

// blocks reads the frames that hold header blocks. These are one zlib stream, so
// every one of them has to go through here, in order.
type blocks struct {
	feed   bytes.Reader
	framer *spdy.Framer
}

func newBlocks() (*blocks, error) {
	b := new(blocks)
	framer, err := spdy.NewFramerWithOptions(io.Discard, &b.feed,
		spdy.WithMaxControlFramePayloadSize(maxControlFrame),
		spdy.WithMaxHeaderCount(maxHeaders),
		spdy.WithMaxHeaderFieldSize(maxHeaderField))
	b.framer = framer
	return b, err
}

// synStream reads a SYN_STREAM frame, given with its head.
func (b *blocks) synStream(frame []byte) (id uint32, headers http.Header, err error) {
	if len(frame) < spdyHead+minSynStream {
		return 0, nil, protocolError("SYN_STREAM of %d bytes", len(frame))
	}
	f, err := b.read(frame)
	if err != nil {
		return 0, nil, err
	}
	syn, ok := f.(*spdy.SynStreamFrame)
	if !ok {
		return 0, nil, protocolError("%T instead of SYN_STREAM", f)
	}
	return uint32(syn.StreamId), syn.Headers, nil
}

// headers reads a HEADERS frame, given with its head, and forgets it: nobody here
// has a use for it.
func (b *blocks) headers(frame []byte) error {
	if len(frame) < spdyHead+minHeaders {
		return protocolError("HEADERS of %d bytes", len(frame))
	}
	_, err := b.read(frame)
	return err
}

// read parses one frame. Any error is the end of the session: the zlib stream
// cannot be taken up again.
func (b *blocks) read(frame []byte) (spdy.Frame, error) {
	b.feed.Reset(frame)
	f, err := b.framer.ReadFrame()
	if err != nil {
		return nil, protocolError("header block: %v", err)
	}
	return f, nil
}
