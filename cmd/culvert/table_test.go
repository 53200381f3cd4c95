package main

import (
	"net"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[time.Duration]string{
		-time.Minute:                 "0s",
		0:                            "0s",
		119 * time.Second:            "119s",
		2 * time.Minute:              "2m",
		9*time.Minute + time.Second:  "9m1s",
		10*time.Minute + time.Second: "10m",
		179 * time.Minute:            "179m",
		3*time.Hour + time.Minute:    "3h1m",
		8*time.Hour + time.Minute:    "8h",
		47 * time.Hour:               "47h",
		2*day + time.Hour:            "2d1h",
		9 * day:                      "9d",
		800 * day:                    "2y70d",
		4000 * day:                   "10y",
	} {
		if got := duration(in); got != want {
			t.Errorf("duration(%v) = %q, want %q", in, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1.0KiB", 10 << 10: "10KiB", 1536 << 20: "1.5GiB", 1 << 63: "8.0EiB",
	} {
		if got := size(in); got != want {
			t.Errorf("size(%d) = %q, want %q", in, got, want)
		}
	}
}

func TestSplitRelay(t *testing.T) {
	for in, want := range map[string][2]string{
		"relay":            {"relay", "7443"},
		"relay:1":          {"relay", "1"},
		"10.0.0.1":         {"10.0.0.1", "7443"},
		"::1":              {"::1", "7443"},
		"[::1]":            {"::1", "7443"},
		"[::1]:9":          {"::1", "9"},
		"":                 {},
		":7443":            {},
		"relay:0":          {},
		"relay:x":          {},
		"https://relay":    {},
		"https://relay:80": {},
		"a:b:c":            {},
	} {
		host, port, err := splitRelay(in)
		if want == ([2]string{}) {
			if err == nil {
				t.Errorf("splitRelay(%q) = %q, %q", in, host, port)
			}
			continue
		}
		if err != nil || host != want[0] || port != want[1] {
			t.Errorf("splitRelay(%q) = %q, %q, %v", in, host, port, err)
		}
	}
}

func TestDisplayName(t *testing.T) {
	for in, want := range map[string]string{
		"culvert":                      "culvert",
		"/usr/bin/culvert":             "culvert",
		"/x/kubectl-culvert":           "kubectl culvert",
		"kubectl-culvert.exe":          "kubectl culvert",
		"kubectl-culvert_test":         "kubectl culvert-test",
		"some-other-name-of-this-file": "culvert",
	} {
		if got := displayName(in); got != want {
			t.Errorf("displayName(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzSplitRelay(f *testing.F) {
	for _, s := range []string{"0]0", "relay", "relay:1", "[::1]:9", "::1", "a:b:c", "https://relay"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := splitRelay(s)
		if err != nil {
			return
		}
		h, p, err := splitRelay(net.JoinHostPort(host, port))
		if err != nil || h != host || p != port {
			t.Fatalf("splitRelay(%q) = %q, %q, read back as %q, %q, %v", s, host, port, h, p, err)
		}
	})
}
