package client

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRef(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Ref
		err  string
	}{
		{in: "web", want: Ref{"pods", "web"}},
		{in: "pod/web", want: Ref{"pods", "web"}},
		{in: "po/web", want: Ref{"pods", "web"}},
		{in: "pods/web-0", want: Ref{"pods", "web-0"}},
		{in: "svc/web", want: Ref{"services", "web"}},
		{in: "deployment.apps/web", want: Ref{"deployments", "web"}},
		{in: "", err: "want [TYPE/]NAME"},
		{in: "pod/", err: "want [TYPE/]NAME"},
		{in: "/web", err: "want [TYPE/]NAME"},
		{in: "pod/a/b", err: "want [TYPE/]NAME"},
		{in: "node/a", err: `unknown type "node"`},
		{in: "a b", err: "must not contain"},
		{in: "a\x00", err: "must not contain"},
		{in: "a\xff", err: "must not contain"},
		{in: strings.Repeat("x", 254), err: "longer than 253"},
	} {
		got, err := ParseRef(tc.in)
		switch {
		case tc.err == "" && (err != nil || got != tc.want):
			t.Errorf("ParseRef(%q) = %v, %v; want %v", tc.in, got, err, tc.want)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("ParseRef(%q) error = %v; want one with %q", tc.in, err, tc.err)
		}
	}
}

func TestPodNameOfOtherTypes(t *testing.T) {
	if name, err := (Ref{"pods", "web"}).PodName(); name != "web" || err != nil {
		t.Errorf("PodName of a pod = %q, %v", name, err)
	}
	if _, err := (Ref{"services", "web"}).PodName(); !errors.Is(err, ErrNeedsKubernetes) {
		t.Errorf("PodName of a service: error = %v", err)
	}
}

func TestCheckNamespace(t *testing.T) {
	for in, ok := range map[string]bool{"default": true, "": false, "a/b": false, strings.Repeat("n", 64): false} {
		if err := CheckNamespace(in); (err == nil) != ok {
			t.Errorf("CheckNamespace(%q) = %v", in, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"web", "pod/web", "svc/x", "a/b/c", "/", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		again, err := ParseRef(r.Type + "/" + r.Name)
		if err != nil || again != r {
			t.Fatalf("ParseRef(%q) = %v, read back as %v, %v", s, r, again, err)
		}
	})
}
