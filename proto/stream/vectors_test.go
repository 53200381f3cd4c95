package stream

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
	"testing/iotest"
)

// vector is one line of testdata/vectors.json; PROTOCOL.md describes the file.
// The file was written by another program than this package, so that a mistake
// made twice here is still seen.
type vector struct {
	Name       string          `json:"name"`
	Message    string          `json:"message"`
	Hex        string          `json:"hex"`
	Value      json.RawMessage `json:"value"`
	Error      string          `json:"error"`
	DecodeOnly bool            `json:"decode_only"`
}

func loadVectors(tb testing.TB, message string) []vector {
	tb.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var all, some []vector
	if err := json.Unmarshal(b, &all); err != nil {
		tb.Fatal(err)
	}
	for _, v := range all {
		if v.Message == message {
			some = append(some, v)
		}
	}
	if len(some) == 0 {
		tb.Fatalf("no vector for %q", message)
	}
	return some
}

func (v vector) bytes(tb testing.TB) []byte {
	tb.Helper()
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		tb.Fatalf("%s: %v", v.Name, err)
	}
	return b
}

// outcome names an error the way the vectors do.
func outcome(err error) string {
	switch {
	case err == nil:
		return ""
	case err == io.EOF: // bare, by contract
		return "eof"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "truncated"
	case errors.Is(err, &Error{Code: Malformed}):
		return "malformed"
	case errors.Is(err, &Error{Code: Unsupported}):
		return "unsupported"
	}
	return err.Error()
}

// runVectors holds one message against its vectors: decoded from a reader that
// gives a byte at a time, with nothing taken of what follows, and encoded again.
func runVectors[M any](t *testing.T, message string, read func(io.Reader) (*M, error),
	write func(io.Writer, *M) error, want func(testing.TB, json.RawMessage) *M) {
	for _, v := range loadVectors(t, message) {
		t.Run(v.Name, func(t *testing.T) {
			wire := v.bytes(t)
			src := bytes.NewReader(wire)
			got, err := read(iotest.OneByteReader(src))
			if outcome(err) != v.Error {
				t.Fatalf("read: error %v, want %q", err, v.Error)
			}
			if err != nil {
				if got != nil {
					t.Errorf("read: %v beside an error", got)
				}
				return
			}
			value := want(t, v.Value)
			if !reflect.DeepEqual(got, value) {
				t.Errorf("read: %+v, want %+v", got, value)
			}
			tail := []byte("next")
			rest := io.MultiReader(bytes.NewReader(wire), bytes.NewReader(tail))
			if _, err := read(rest); err != nil {
				t.Fatal(err)
			}
			if left, _ := io.ReadAll(rest); !bytes.Equal(left, tail) {
				t.Errorf("the reader left %q, want %q", left, tail)
			}
			if v.DecodeOnly {
				return
			}
			w := &onceWriter{}
			if err := write(w, value); err != nil {
				t.Fatal(err)
			}
			if w.calls != 1 || !bytes.Equal(w.Bytes(), wire) {
				t.Errorf("wrote %x in %d calls, want %x in one", w.Bytes(), w.calls, wire)
			}
		})
	}
}

// onceWriter counts the calls of Write.
type onceWriter struct {
	bytes.Buffer
	calls int
}

func (w *onceWriter) Write(p []byte) (int, error) {
	w.calls++
	return w.Buffer.Write(p)
}

func decodeValue(tb testing.TB, raw json.RawMessage, into any) {
	tb.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		tb.Fatal(err)
	}
}

func TestOpenVectors(t *testing.T) {
	runVectors(t, "open", ReadOpen, WriteOpen, func(tb testing.TB, raw json.RawMessage) *Open {
		var v struct {
			Version, Kind                 uint8
			ID, Namespace, Pod, UID, User string
			Port                          uint16
			Trace                         string
		}
		decodeValue(tb, raw, &v)
		o := &Open{Version: v.Version, Kind: Kind(v.Kind), Namespace: v.Namespace, Pod: v.Pod,
			UID: v.UID, Port: v.Port, User: v.User}
		if v.Trace != "" {
			o.Trace, _ = ParseTrace(v.Trace)
		}
		if _, err := hex.Decode(o.ID[:], []byte(v.ID)); err != nil {
			tb.Fatal(err)
		}
		return o
	})
}

func TestReplyVectors(t *testing.T) {
	runVectors(t, "reply", ReadReply, WriteReply, func(tb testing.TB, raw json.RawMessage) *Reply {
		r := &Reply{}
		decodeValue(tb, raw, r)
		return r
	})
}

func TestHelloVectors(t *testing.T) {
	runVectors(t, "hello", ReadHello, WriteHello, func(tb testing.TB, raw json.RawMessage) *Hello {
		var v struct {
			Version, Credential uint8
			Token               string
		}
		decodeValue(tb, raw, &v)
		return &Hello{Version: v.Version, Credential: CredentialKind(v.Credential), Token: v.Token}
	})
}

// direction is what is to be known of one direction of a stream.
type direction struct {
	Data      string `json:"data"` // hex
	Fin       bool   `json:"fin"`
	ResetCode Code   `json:"reset_code"`
	ResetText string `json:"reset_text"`
	Partial   bool   `json:"partial"`
}

func TestFrameVectors(t *testing.T) {
	for _, v := range loadVectors(t, "frames") {
		t.Run(v.Name, func(t *testing.T) {
			wire := v.bytes(t)
			got, err := parseDirection(wire)
			if outcome(err) != v.Error {
				t.Fatalf("parse: error %v, want %q", err, v.Error)
			}
			for size := 1; size <= len(wire); size++ {
				checkScanner(t, wire, func() int { return size })
			}
			if err != nil {
				return
			}
			var want direction
			decodeValue(t, v.Value, &want)
			if got != want {
				t.Errorf("parsed %+v, want %+v", got, want)
			}
		})
	}
}
