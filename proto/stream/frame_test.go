package stream

import (
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestHeaderRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		t FrameType
		n int
	}{{FrameData, 0}, {FrameData, 1}, {FrameData, 256}, {FrameData, MaxPayload}, {FrameFin, 0},
		{FrameReset, 2}, {FrameReset, 1026}} {
		b := []byte{0xff, 0xff, 0xff, 0xff, 0xff}
		PutHeader(b, tc.t, tc.n)
		ft, n, err := ParseHeader(b)
		if ft != tc.t || n != tc.n || err != nil || b[4] != 0xff {
			t.Errorf("%s with %d bytes came back as %s with %d, %v", tc.t, tc.n, ft, n, err)
		}
	}
	if _, _, err := ParseHeader([]byte{1, 0, 0}); err != io.ErrUnexpectedEOF {
		t.Errorf("three bytes: %v", err)
	}
}

// The arithmetic behind MaxPayload, written out.
func TestFrameFillsTLSRecords(t *testing.T) {
	const muxHeader, records = 12, 4 * 16384
	if HeaderSize+MaxPayload+muxHeader != records || MaxPayload != 65520 {
		t.Errorf("MaxPayload is %d", MaxPayload)
	}
}

func TestPutHeaderPanicsRatherThanLie(t *testing.T) {
	for _, n := range []int{-1, MaxPayload + 1, 1 << 16} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a payload of %d bytes was put in a header", n)
				}
			}()
			PutHeader(make([]byte, HeaderSize), FrameData, n)
		}()
	}
}

func TestAppendReset(t *testing.T) {
	for name, tc := range map[string]struct {
		code, want Code
		text       string
	}{
		"plain":        {PodReset, PodReset, "connection reset by peer"},
		"no text":      {Canceled, Canceled, ""},
		"never OK":     {OK, Internal, "x"},
		"too long":     {Policy, Policy, strings.Repeat("é", MaxText)},
		"escape codes": {Policy, Policy, "\x1b[2J\r\nowned"},
	} {
		t.Run(name, func(t *testing.T) {
			b := AppendReset([]byte("b"), tc.code, tc.text)
			ft, n, err := ParseHeader(b[1:])
			if err != nil || ft != FrameReset || n != len(b)-1-HeaderSize {
				t.Fatalf("header: %s with %d bytes, %v", ft, n, err)
			}
			e, err := ParseReset(b[1+HeaderSize:])
			if err != nil || e.Code != tc.want || e.Text != clean(tc.text) {
				t.Errorf("came back as %+v, %v", e, err)
			}
		})
	}
}

func TestParseResetRefuses(t *testing.T) {
	for _, p := range []string{"", "\x00", "\x00\x00", "\x00\x00fine", "\x00\x01" + strings.Repeat("x", MaxText+1)} {
		if e, err := ParseReset([]byte(p)); e != nil || CodeOf(err) != Malformed {
			t.Errorf("%q: %v, %v", p, e, err)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "",
		"plain":                                  "plain",
		"Zoë, 日本, 👩‍👧":                           "Zoë, 日本, 👩‍👧",
		"a\tb\r\nc":                              "a b  c",
		"\x00\x07\x1b\x7f":                       "????",
		"c1 \u0085\u009b":                        "c1 ??",
		"bidi \u202e\u2066":                      "bidi ??",
		"line \u2028":                            "line ?",
		"bad \xff\xc3":                           "bad ??",
		"kept \ufffd":                            "kept \ufffd",
		strings.Repeat("é", MaxText/2) + "x":     strings.Repeat("é", MaxText/2),
		"x" + strings.Repeat("é", MaxText/2):     "x" + strings.Repeat("é", MaxText/2-1),
		strings.Repeat("\u202e", MaxText/2):      strings.Repeat("?", MaxText/2),
		strings.Repeat("\xff", MaxText+1) + "ab": strings.Repeat("?", MaxText),
	} {
		got := clean(in)
		if got != want || !utf8.ValidString(got) || len(got) > MaxText {
			t.Errorf("clean(%.40q) = %.40q, want %.40q", in, got, want)
		}
	}
}
