package identity

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestParseTokens(t *testing.T) {
	a, b := strings.Repeat("a", 16), strings.Repeat("b", 16384)
	cases := []struct {
		name, in string
		want     []string // nil: refused
	}{
		{"one", a, []string{a}},
		{"line end", a + "\n", []string{a}},
		{"windows", "\r\n" + a + "\r\n", []string{a}},
		{"two and a remark", "# old and new\n" + a + "\n\n" + b + "\n", []string{a, b}},
		{"empty", "", nil},
		{"remark only", "# " + a, nil},
		{"short", a[1:], nil},
		{"long", b + "b", nil},
		{"space inside", a + " " + a, nil},
		{"zero byte", a + "\x00", nil},
		{"not ASCII", a + "ä", nil},
		{"too many", strings.Repeat(a+"\n", 17), nil},
		{"too large", strings.Repeat("\n", 64<<10) + a, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseTokens([]byte(c.in))
			if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
				t.Fatalf("%d tokens, %v", len(got), err)
			}
			if err != nil && strings.Contains(err.Error(), a[1:]) {
				t.Fatalf("error quotes the token: %v", err)
			}
		})
	}
}

func TestLoadToken(t *testing.T) {
	dir := t.TempDir()
	want := strings.Repeat("t", 20)
	if got, err := LoadToken(put(t, dir, "token", []byte(want+"\n"))); got != want || err != nil {
		t.Fatal(got, err)
	}
	for _, path := range []string{dir + "/none", dir, put(t, dir, "short", []byte("x"))} {
		if _, err := LoadToken(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add([]byte("culvert-join-0123456789\n#x\nculvert-join-abcdefghijk\r\n"))
	f.Add([]byte("\n\n#"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tokens, err := ParseTokens(b)
		if err != nil {
			return
		}
		again, err := ParseTokens([]byte(strings.Join(tokens, "\n")))
		if err != nil || !slices.Equal(again, tokens) {
			t.Fatalf("%q does not come back: %v", tokens, err)
		}
		for _, token := range tokens {
			if !bytes.Contains(b, []byte(token)) {
				t.Fatalf("%q was invented", token)
			}
		}
	})
}
