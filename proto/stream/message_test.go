package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
)

// fullOpen uses every field to its limit.
func fullOpen() *Open {
	return &Open{
		Version:   Version,
		Kind:      KindForward,
		ID:        NewID(),
		Namespace: strings.Repeat("n", MaxNamespace),
		Pod:       strings.Repeat("p", MaxPod),
		UID:       strings.Repeat("u", MaxUID),
		Port:      65535,
		User:      strings.Repeat("ü", MaxUser/2),
	}
}

func TestOpenAtItsLimits(t *testing.T) {
	want := fullOpen()
	b, err := AppendOpen([]byte("before"), want)
	if err != nil {
		t.Fatal(err)
	}
	b, found := bytes.CutPrefix(b, []byte("before"))
	if !found || len(b) > MaxOpen {
		t.Fatalf("%d bytes, prefix kept: %v", len(b), found)
	}
	got, err := ReadOpen(bytes.NewReader(b))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v; want %+v", got, err, want)
	}
}

func TestOpenRefusedAtTheWriter(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*Open)
		want  Code
	}{
		"kind 0":           {func(o *Open) { o.Kind = 0 }, Malformed},
		"kind 9":           {func(o *Open) { o.Kind = 9 }, Unsupported},
		"port 0":           {func(o *Open) { o.Port = 0 }, Malformed},
		"kind 3":           {func(o *Open) { o.Kind = 3 }, Unsupported},
		"control port":     {func(o *Open) { o.Kind = KindControl }, Malformed},
		"api port":         {func(o *Open) { o.Kind = KindAPI }, Malformed},
		"long namespace":   {func(o *Open) { o.Namespace += "n" }, Malformed},
		"long pod":         {func(o *Open) { o.Pod += "p" }, Malformed},
		"long uid":         {func(o *Open) { o.UID += "u" }, Malformed},
		"long user":        {func(o *Open) { o.User += "u" }, Malformed},
		"user not UTF-8":   {func(o *Open) { o.User = "\xff" }, Malformed},
		"user with escape": {func(o *Open) { o.User = "\x1b[0m" }, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			o := fullOpen()
			tc.spoil(o)
			w := &onceWriter{}
			if err := WriteOpen(w, o); CodeOf(err) != tc.want || w.calls != 0 {
				t.Errorf("error %v after %d writes, want %v and none", err, w.calls, tc.want)
			}
			if b, err := AppendOpen([]byte("b"), o); err == nil || string(b) != "b" {
				t.Errorf("append: %q, %v", b, err)
			}
		})
	}
}

// Version 0 in a struct means "ours", so that nobody has to set it.
func TestZeroVersionIsOurs(t *testing.T) {
	var b bytes.Buffer
	if err := errors.Join(WriteOpen(&b, &Open{Kind: KindControl}), WriteReply(&b, &Reply{}),
		WriteHello(&b, &Hello{})); err != nil {
		t.Fatal(err)
	}
	o, err1 := ReadOpen(&b)
	r, err2 := ReadReply(&b)
	h, err3 := ReadHello(&b)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if o.Version != Version || r.Version != Version || h.Version != Version {
		t.Errorf("versions %d %d %d, want %d", o.Version, r.Version, h.Version, Version)
	}
}

func TestReplyKeepsTheCodeWhateverTheText(t *testing.T) {
	for name, text := range map[string]string{
		"too long":  strings.Repeat("x", MaxText+1),
		"cut rune":  strings.Repeat("x", MaxText-1) + "é",
		"not UTF-8": "a\xff\xfeb",
		"escapes":   "a\x1b]0;title\x07\nb",
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := WriteReply(&b, &Reply{Code: Policy, Text: text}); err != nil {
				t.Fatal(err)
			}
			r, err := ReadReply(&b)
			if err != nil || r.Code != Policy || r.Text != clean(text) {
				t.Errorf("read %+v, %v", r, err)
			}
		})
	}
}

func TestReplyCannotAcceptAnUnknownVersion(t *testing.T) {
	if err := WriteReply(io.Discard, &Reply{Version: Version + 1}); CodeOf(err) != Unsupported {
		t.Errorf("accepting: %v, want unsupported", err)
	}
	if err := WriteReply(io.Discard, &Reply{Version: Version + 1, Code: Internal}); err != nil {
		t.Errorf("refusing: %v, want nil", err)
	}
}

func TestReplyErr(t *testing.T) {
	if err := (&Reply{Text: "welcome"}).Err(); err != nil {
		t.Errorf("OK is %v, want nil", err)
	}
	err := fmt.Errorf("open stream: %w", (&Reply{Code: Forbidden, Text: "not you"}).Err())
	if !errors.Is(err, &Error{Code: Forbidden}) || err.Error() != "open stream: not you" {
		t.Errorf("refusal is %v", err)
	}
}

func TestHelloTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		hello Hello
		want  Code
	}{
		"longest":      {Hello{Credential: CredentialToken, Token: strings.Repeat("t", MaxToken)}, OK},
		"too long":     {Hello{Credential: CredentialToken, Token: strings.Repeat("t", MaxToken+1)}, Malformed},
		"line break":   {Hello{Credential: CredentialJoin, Token: "s3cr3t\n"}, Malformed},
		"not ASCII":    {Hello{Credential: CredentialJoin, Token: "s3cr3té"}, Malformed},
		"missing":      {Hello{Credential: CredentialJoin}, Malformed},
		"unasked":      {Hello{Token: "s3cr3t"}, Malformed},
		"unknown kind": {Hello{Credential: 9, Token: "s3cr3t"}, Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := AppendHello(nil, &tc.hello)
			if CodeOf(err) != tc.want {
				t.Fatalf("append: %v, want %v", err, tc.want)
			}
			if err != nil {
				if strings.Contains(err.Error(), "s3cr3t") {
					t.Errorf("the error quotes the token: %v", err)
				}
				return
			}
			got, err := ReadHello(bytes.NewReader(b))
			if err != nil || got.Token != tc.hello.Token || got.Credential != tc.hello.Credential {
				t.Errorf("read %v, %v", got, err)
			}
		})
	}
}

func TestHelloHidesItsToken(t *testing.T) {
	h := &Hello{Credential: CredentialToken, Token: "s3cr3t"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{h, *h} {
			if out := fmt.Sprintf(format, v); strings.Contains(out, "s3cr3t") {
				t.Errorf("%s prints %s", format, out)
			}
		}
	}
}

// brokenPipe fails or stops short, as a connection may.
type brokenPipe struct {
	n   int
	err error
}

func (p brokenPipe) Write(b []byte) (int, error) { return min(p.n, len(b)), p.err }
func (p brokenPipe) Read([]byte) (int, error)    { return 0, p.err }

func TestErrorsOfTheConnectionStayVisible(t *testing.T) {
	p := brokenPipe{err: os.ErrDeadlineExceeded}
	_, errOpen := ReadOpen(p)
	_, errReply := ReadReply(p)
	_, errHello := ReadHello(p)
	for name, err := range map[string]error{
		"read open": errOpen, "read reply": errReply, "read hello": errHello,
		"write open":  WriteOpen(p, &Open{Kind: KindControl}),
		"write reply": WriteReply(p, &Reply{}),
		"write hello": WriteHello(p, &Hello{}),
	} {
		if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := WriteReply(brokenPipe{n: 2}, &Reply{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("short write: %v", err)
	}
}

// A length over the limit is refused from the head: nothing more is read and
// nothing of that size allocated.
func TestLimitsAreCheckedBeforeTheRest(t *testing.T) {
	for _, message := range []string{"open", "reply", "hello"} {
		for _, v := range loadVectors(t, message) {
			if !strings.Contains(v.Name, "from the head alone") {
				continue
			}
			src := io.MultiReader(bytes.NewReader(v.bytes(t)), brokenPipe{err: errors.New("read past the head")})
			err := map[string]func(io.Reader) error{
				"open":  func(r io.Reader) error { _, err := ReadOpen(r); return err },
				"reply": func(r io.Reader) error { _, err := ReadReply(r); return err },
				"hello": func(r io.Reader) error { _, err := ReadHello(r); return err },
			}[message](src)
			if CodeOf(err) != Malformed {
				t.Errorf("%s: %v, want malformed", v.Name, err)
			}
		}
	}
}

func BenchmarkReadOpen(b *testing.B) {
	wire, err := AppendOpen(nil, &Open{Kind: KindForward, ID: NewID(), Namespace: "shop", Pod: "web-0",
		UID: "1f9d2c3e-8a77-4d0e-9f4b-0c6f6f1f2a55", Port: 8080, User: "alice@example.org"})
	if err != nil {
		b.Fatal(err)
	}
	r := bytes.NewReader(wire)
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(wire)
		if _, err := ReadOpen(r); err != nil {
			b.Fatal(err)
		}
	}
}
