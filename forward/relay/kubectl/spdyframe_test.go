package kubectl

import (
	"bytes"
	"io"
	"testing"

	"github.com/moby/spdystream/spdy"
)

// What is written here by hand is read by the library that kubectl uses.
func TestFramesAreReadByTheLibrary(t *testing.T) {
	var r replies
	var b []byte
	for id := uint32(1); id < 9; id += 2 {
		b = r.append(b, id)
		b = appendData(b, id, 0, []byte("hello"))
		b = appendFin(b, id)
		b = appendRst(b, id, rstRefused)
		b = appendPing(b, id+1)
	}
	b = appendGoAway(b, 7, goAwayProtocolError)
	framer, err := spdy.NewFramer(io.Discard, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for id := spdy.StreamId(1); id < 9; id += 2 {
		for i := range 5 {
			f, err := framer.ReadFrame()
			if err != nil {
				t.Fatalf("stream %d, frame %d: %v", id, i, err)
			}
			ok := false
			switch f := f.(type) {
			case *spdy.SynReplyFrame:
				ok = i == 0 && f.StreamId == id && len(f.Headers) == 0
			case *spdy.DataFrame:
				ok = f.StreamId == id && (i == 1 && string(f.Data) == "hello" && f.Flags == 0 ||
					i == 2 && len(f.Data) == 0 && f.Flags == spdy.DataFlagFin)
			case *spdy.RstStreamFrame:
				ok = i == 3 && f.StreamId == id && f.Status == spdy.RefusedStream
			case *spdy.PingFrame:
				ok = i == 4 && f.Id == uint32(id)+1
			}
			if !ok {
				t.Errorf("stream %d, frame %d: %+v", id, i, f)
			}
		}
	}
	f, err := framer.ReadFrame()
	if g, ok := f.(*spdy.GoAwayFrame); !ok || g.LastGoodStreamId != 7 || g.Status != spdy.GoAwayProtocolError {
		t.Errorf("%+v, %v", f, err)
	}
}
