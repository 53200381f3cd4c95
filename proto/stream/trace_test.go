package stream

import (
	"bytes"
	"testing"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestParseTrace(t *testing.T) {
	for s, ok := range map[string]bool{
		parent: true,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00":      true,
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":      true,
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what": true,
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what": false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what": false,
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":      false,
		"00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":      false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":      false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01":      false,
		"00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011":      false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0":       false,
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":      false,
		"00-4bf92f3577b34da6a3ce929d0e0e473\n-00f067aa0ba902b7-01":     false,
		"": false,
	} {
		got, is := ParseTrace(s)
		if is != ok || ok && s[:2] == "00" && got.String() != s || !ok && !got.IsZero() {
			t.Errorf("%q: %v, %q", s, is, got)
		}
	}
}

func TestTraceGoesOn(t *testing.T) {
	p, _ := ParseTrace(parent)
	c := p.Child()
	if c.ID != p.ID || c.Span == p.Span || c.Flags != p.Flags || c.TraceID() != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("%s of %s", c, p)
	}
	var none Trace
	one, other := NewTrace(), NewTrace()
	if none.String() != "" || none.TraceID() != "" || none.Child().IsZero() || one == other {
		t.Error("none is no trace")
	}
	b, err := AppendOpen(nil, &Open{Kind: KindForward, Port: 1, Trace: c})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := ReadOpen(bytes.NewReader(b)); err != nil || o.Trace != c {
		t.Errorf("%+v, %v", o, err)
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add(parent)
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := ParseTrace(s)
		if again, is := ParseTrace(got.String()); is != ok || again != got {
			t.Errorf("%q: %v %v, then %v %v", s, got, ok, again, is)
		}
	})
}
