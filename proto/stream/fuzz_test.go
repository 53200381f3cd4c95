package stream

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"
)

// seed starts a fuzzer from the vectors of a message; what a fuzzer finds is
// added to the vectors rather than to a corpus.
func seed(f *testing.F, message string) {
	for _, v := range loadVectors(f, message) {
		f.Add(v.bytes(f))
	}
}

// fuzzMessage checks what holds for every reader and any input: it takes one
// message exactly, its errors are of the kinds it promises, and what it took is
// the same after it was written and read again.
func fuzzMessage[M any](t *testing.T, in []byte, head int, length func(head []byte) int,
	read func(io.Reader) (*M, error), write func(io.Writer, *M) error) {
	src := bytes.NewReader(in)
	m, err := read(src)
	taken := len(in) - src.Len()
	switch kind := outcome(err); kind {
	case "":
		if want := head + length(in[:head]); taken != want {
			t.Fatalf("took %d bytes, the message has %d", taken, want)
		}
	case "eof":
		if len(in) > 0 {
			t.Fatalf("io.EOF after %d bytes", len(in))
		}
	case "truncated":
		if src.Len() > 0 || len(in) == 0 {
			t.Fatalf("truncated, with %d of %d bytes left", src.Len(), len(in))
		}
	case "malformed", "unsupported":
		if taken > head+length(in[:head]) {
			t.Fatalf("took %d bytes, more than the message", taken)
		}
	default:
		t.Fatalf("an error of no promised kind: %v", err)
	}
	if err != nil {
		if m != nil {
			t.Fatalf("%+v beside an error", m)
		}
		return
	}
	var b bytes.Buffer
	if err := write(&b, m); err != nil {
		t.Fatalf("cannot write what was read: %v", err)
	}
	again, err := read(&b)
	if err != nil || !reflect.DeepEqual(m, again) {
		t.Fatalf("read %+v, then %+v, %v", m, again, err)
	}
}

func lengthAt(offset int) func([]byte) int {
	return func(head []byte) int { return int(binary.BigEndian.Uint16(head[offset:])) }
}

func FuzzReadOpen(f *testing.F) {
	seed(f, "open")
	f.Fuzz(func(t *testing.T, in []byte) { fuzzMessage(t, in, openHead, lengthAt(2), ReadOpen, WriteOpen) })
}

func FuzzReadReply(f *testing.F) {
	seed(f, "reply")
	f.Fuzz(func(t *testing.T, in []byte) { fuzzMessage(t, in, replyHead, lengthAt(4), ReadReply, WriteReply) })
}

func FuzzReadHello(f *testing.F) {
	seed(f, "hello")
	f.Fuzz(func(t *testing.T, in []byte) { fuzzMessage(t, in, helloHead, lengthAt(2), ReadHello, WriteHello) })
}

// FuzzWriteOpen goes the other way: what the writer takes, the reader gives back.
func FuzzWriteOpen(f *testing.F) {
	f.Add(uint8(1), uint8(1), []byte("id"), "shop", "web-0", "uid", uint16(80), "alice")
	f.Add(uint8(0), uint8(2), []byte{}, "", "", "", uint16(0), "")
	f.Add(uint8(1), uint8(4), []byte("id"), "", "", "", uint16(0), "alice")
	f.Fuzz(func(t *testing.T, version, kind uint8, id []byte, ns, pod, uid string, port uint16, user string) {
		o := &Open{Version: version, Kind: Kind(kind), Namespace: ns, Pod: pod, UID: uid, Port: port, User: user}
		copy(o.ID[:], id)
		b, err := AppendOpen(nil, o)
		if err != nil {
			return
		}
		if len(b) > MaxOpen {
			t.Fatalf("wrote %d bytes", len(b))
		}
		got, err := ReadOpen(bytes.NewReader(b))
		o.Version = Version
		if err != nil || !reflect.DeepEqual(got, o) {
			t.Fatalf("wrote %+v, read %+v, %v", o, got, err)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	seed(f, "frames")
	f.Fuzz(func(t *testing.T, in []byte) {
		ft, n, err := ParseHeader(in)
		if err != nil {
			if kind := outcome(err); (len(in) < HeaderSize) != (kind == "truncated") {
				t.Fatalf("%d bytes: %v", len(in), err)
			}
			return
		}
		b := make([]byte, HeaderSize)
		PutHeader(b, ft, n)
		if !bytes.Equal(b, in[:HeaderSize]) {
			t.Fatalf("%x parsed as %s with %d bytes", in[:HeaderSize], ft, n)
		}
	})
}

func FuzzScanner(f *testing.F) {
	for _, v := range loadVectors(f, "frames") {
		f.Add(v.bytes(f), uint64(1), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, order uint64, limit uint8) {
		rng := rand.New(rand.NewPCG(order, 0))
		checkScanner(t, in, func() int { return 1 + rng.IntN(int(limit)+1) })
	})
}

func FuzzParseReset(f *testing.F) {
	f.Add([]byte("\x00\x0econnection reset by peer"))
	f.Add([]byte("\x00\x0b\x1b[2J\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := ParseReset(in)
		if err != nil {
			if CodeOf(err) != Malformed || e != nil {
				t.Fatalf("%v, %v", e, err)
			}
			return
		}
		again, err := ParseReset(AppendReset(nil, e.Code, e.Text)[HeaderSize:])
		if err != nil || *again != *e {
			t.Fatalf("read %+v, then %+v, %v", e, again, err)
		}
		if clean(e.Text) != e.Text {
			t.Fatalf("unsafe text %q", e.Text)
		}
	})
}
