package kubectl

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// clientFrame is a frame as a client sends it.
func clientFrame(first byte, payload []byte) []byte {
	mask := [4]byte{0x11, 0x22, 0x33, 0x44}
	b := appendWSHead(nil, 0, len(payload))
	b[0] = first
	b[1] |= wsMask
	b = append(b, mask[:]...)
	at := len(b)
	b = append(b, payload...)
	unmask(b[at:], mask, 0)
	return b
}

func TestUnmask(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		p := make([]byte, r.IntN(200))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		mask := [4]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}
		want := make([]byte, len(p))
		for i := range p {
			want[i] = p[i] ^ mask[i&3]
		}
		pos := 0
		for rest := p; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			pos = unmask(rest[:n], mask, pos)
			rest = rest[n:]
		}
		if !bytes.Equal(p, want) || pos != len(p)&3 {
			t.Fatalf("%d bytes with mask %x", len(p), mask)
		}
	}
}

// newTunnel reads what a client sends, and notes the answers to control frames.
func newTunnel(r io.Reader) (tunnelReader, *[]byte) {
	var replies []byte
	ws := &wsReader{r: bufio.NewReaderSize(r, 256), reply: func(op byte, p []byte) {
		replies = append(append(replies, op), p...)
	}}
	return tunnelReader{ws}, &replies
}

func TestTunnelReader(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), 10_000)
	closeWith := func(code uint16) []byte {
		return clientFrame(wsFin|opClose, binary.BigEndian.AppendUint16(nil, code))
	}
	cat := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	tests := []struct {
		name    string
		wire    []byte
		want    string
		end     error // io.EOF for a good one, nil for any other
		replies string
	}{
		{"messages, empty ones too", cat(
			clientFrame(wsFin|opBinary, []byte("one ")), clientFrame(wsFin|opBinary, nil), clientFrame(wsFin|opBinary, []byte("two")), closeWith(1000),
		), "one two", io.EOF, "\x08\x03\xe8"},
		{"fragments with a ping between", cat(
			clientFrame(opBinary, []byte("a")), clientFrame(wsFin|opPing, []byte("hi")), clientFrame(opContinuation, nil),
			clientFrame(opContinuation, []byte("b")), clientFrame(wsFin|opContinuation, []byte("c")), closeWith(1001),
		), "abc", io.EOF, "\x0ahi\x08\x03\xe9"},
		{"long", cat(clientFrame(wsFin|opBinary, long), clientFrame(wsFin|opBinary, long[:200]), clientFrame(wsFin|opClose, nil)), string(long) + string(long[:200]), io.EOF, "\x08"},
		{"pong", cat(clientFrame(wsFin|opPong, []byte("x")), clientFrame(wsFin|opBinary, []byte("a")), closeWith(1000)), "a", io.EOF, "\x08\x03\xe8"},
		{"cut between messages", clientFrame(wsFin|opBinary, []byte("a")), "a", io.ErrUnexpectedEOF, ""},
		{"cut in a message", clientFrame(wsFin|opBinary, []byte("abc"))[:8], "ab", io.ErrUnexpectedEOF, ""},
		{"cut in a head", clientFrame(wsFin|opBinary, []byte("abc"))[:4], "", io.ErrUnexpectedEOF, ""},
		{"cut between fragments", clientFrame(opBinary, []byte("abc")), "abc", io.ErrUnexpectedEOF, ""},
		{"bad close code", closeWith(1011), "", &wsCloseError{1011}, "\x08\x03\xf3"},
		{"text", clientFrame(wsFin|opText, []byte("abc")), "", &wsError{code: closeUnsupported}, ""},
		{"not masked", appendWSHead(nil, opBinary, 0), "", &wsError{code: closeProtocol}, ""},
		{"reserved bit", clientFrame(wsFin|0x40|opBinary, nil), "", &wsError{code: closeProtocol}, ""},
		{"unknown opcode", clientFrame(wsFin|3, nil), "", &wsError{code: closeProtocol}, ""},
		{"unknown control", clientFrame(wsFin|0xb, nil), "", &wsError{code: closeProtocol}, ""},
		{"continuation of nothing", clientFrame(wsFin|opContinuation, nil), "", &wsError{code: closeProtocol}, ""},
		{"message within a message", cat(clientFrame(opBinary, nil), clientFrame(wsFin|opBinary, nil)), "", &wsError{code: closeProtocol}, ""},
		{"long ping", clientFrame(wsFin|opPing, long[:126]), "", &wsError{code: closeProtocol}, ""},
		{"ping in pieces", clientFrame(opPing, nil), "", &wsError{code: closeProtocol}, ""},
		{"close with one byte", clientFrame(wsFin|opClose, []byte{3}), "", &wsError{code: closeProtocol}, ""},
		{"impossible length", append([]byte{wsFin | opBinary, wsMask | 127}, bytes.Repeat([]byte{0xff}, 12)...), "", &wsError{code: closeProtocol}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, one := range []bool{false, true} {
				var wire io.Reader = bytes.NewReader(tt.wire)
				if one {
					wire = iotest.OneByteReader(wire)
				}
				r, replies := newTunnel(wire)
				var got bytes.Buffer
				_, err := io.Copy(&got, struct{ io.Reader }{r})
				if err == nil {
					err = io.EOF
				}
				if got.String() != tt.want || !sameEnd(err, tt.end) || string(*replies) != tt.replies {
					t.Errorf("%d bytes, %v, replies %q", got.Len(), err, *replies)
				}
				if _, again := r.Read(make([]byte, 1)); !sameEnd(again, tt.end) {
					t.Errorf("then %v", again)
				}
			}
		})
	}
}

func sameEnd(err, want error) bool {
	var ours, theirs *wsError
	if errors.As(want, &theirs) {
		return errors.As(err, &ours) && ours.code == theirs.code
	}
	var closed, wantClosed *wsCloseError
	if errors.As(want, &wantClosed) {
		return errors.As(err, &closed) && closed.code == wantClosed.code
	}
	return err == want
}

// Whatever a client sends: no panic, no endless loop, and what is read is what the
// same bytes give in another cut.
func FuzzTunnelReader(f *testing.F) {
	f.Add(clientFrame(wsFin|opBinary, []byte("hello")), uint8(3))
	f.Add(append(clientFrame(opBinary, []byte("hello")), clientFrame(wsFin|opPing, []byte("x"))...), uint8(1))
	f.Add(clientFrame(wsFin|opClose, []byte{3, 232}), uint8(1))
	f.Fuzz(func(t *testing.T, wire []byte, cut uint8) {
		read := func(r io.Reader) (string, string, error) {
			tunnel, replies := newTunnel(r)
			got, err := io.ReadAll(tunnel)
			return string(got), string(*replies), err
		}
		a, ra, errA := read(bytes.NewReader(wire))
		b, rb, errB := read(&pieces{wire, int(cut)%16 + 1})
		if a != b || ra != rb || (errA == nil) != (errB == nil) {
			t.Errorf("%q %q %v\n%q %q %v", a, ra, errA, b, rb, errB)
		}
	})
}

// pieces is a reader that gives n bytes at a time.
type pieces struct {
	p []byte
	n int
}

func (r *pieces) Read(p []byte) (int, error) {
	if len(r.p) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.p[:min(r.n, len(r.p))])
	r.p = r.p[n:]
	return n, nil
}
