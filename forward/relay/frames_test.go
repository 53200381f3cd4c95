package relay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func data(s string) []byte {
	b := make([]byte, stream.HeaderSize, stream.HeaderSize+len(s))
	stream.PutHeader(b, stream.FrameData, len(s))
	return append(b, s...)
}

func fin() []byte { return []byte{byte(stream.FrameFin), 0, 0, 0} }

func write(t testing.TB, st io.Writer, parts ...[]byte) {
	t.Helper()
	for _, p := range parts {
		if _, err := st.Write(p); err != nil {
			t.Fatalf("write %q: %v", p, err)
		}
	}
}

// finish writes FIN as the last word of a direction: a relay that was only waiting
// for it may hang up before the write has returned.
func finish(t testing.TB, st *tunnel.Stream) {
	t.Helper()
	if _, err := st.WriteLast(fin()); err != nil {
		t.Fatalf("write the end: %v", err)
	}
}

// next reads one frame: its data, "fin", "reset(code)", or how the stream
// ended without one: "cut" (its end came without a mark), "rst", "lost".
func next(st *tunnel.Stream) string {
	var head [stream.HeaderSize]byte
	if _, err := io.ReadFull(st, head[:]); err != nil {
		return ending(err)
	}
	typ, n, err := stream.ParseHeader(head[:])
	if err != nil {
		return "bad frame: " + err.Error()
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(st, b); err != nil {
		return ending(err)
	}
	switch typ {
	case stream.FrameFin:
		return "fin"
	case stream.FrameReset:
		r, err := stream.ParseReset(b)
		if err != nil {
			return "bad reset: " + err.Error()
		}
		return fmt.Sprintf("reset(%s)", r.Code)
	}
	return string(b)
}

func ending(err error) string {
	switch {
	case errors.Is(err, forward.ErrReset):
		return "rst"
	case errors.Is(err, tunnel.ErrLost):
		return "lost"
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return "cut"
	}
	return err.Error()
}

// rest reads all frames to the very end.
func rest(t testing.TB, st *tunnel.Stream) string {
	t.Helper()
	var out []string
	_ = st.SetReadDeadline(time.Now().Add(patience))
	for len(out) < 100 {
		f := next(st)
		if f == os.ErrDeadlineExceeded.Error() {
			t.Errorf("after %v nothing more came", out)
			break
		}
		if f == "cut" && len(out) > 0 && (out[len(out)-1] == "fin" || strings.HasPrefix(out[len(out)-1], "reset(")) {
			break // ended in the multiplexer as well
		}
		out = append(out, f)
		if f == "cut" || f == "rst" || f == "lost" || strings.HasPrefix(f, "bad") {
			break
		}
	}
	return strings.Join(out, " ")
}

// side is one end of a stream under test.
type side struct{ *tunnel.Stream }
