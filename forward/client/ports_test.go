package client

import (
	"strings"
	"testing"
)

func TestParsePorts(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Ports
		err  string
	}{
		{in: "5000", want: Ports{5000, 5000}},
		{in: "8888:5000", want: Ports{8888, 5000}},
		{in: ":5000", want: Ports{0, 5000}},
		{in: "0:5000", want: Ports{0, 5000}},
		{in: "65535:1", want: Ports{65535, 1}},
		{in: "", err: "remote port is missing"},
		{in: ":", err: "remote port is missing"},
		{in: "0", err: "remote port must be above 0"},
		{in: "5000:0", err: "remote port must be above 0"},
		{in: "5000:", err: "remote port is missing"},
		{in: "1:2:3", err: "more than one colon"},
		{in: "::1", err: "more than one colon"},
		{in: "65536", err: "remote port is not a number"},
		{in: "70000:80", err: "local port is not a number"},
		{in: "-1:80", err: "local port is not a number"},
		{in: "+80", err: "remote port is not a number"},
		{in: " 80", err: "remote port is not a number"},
		{in: "8080:http", err: "remote port is not a number"},
		{in: "x:80", err: "local port is not a number"},
	} {
		got, err := ParsePorts(tc.in)
		switch {
		case tc.err == "" && (err != nil || got != tc.want):
			t.Errorf("ParsePorts(%q) = %v, %v; want %v", tc.in, got, err, tc.want)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("ParsePorts(%q) error = %v; want one with %q", tc.in, err, tc.err)
		}
	}
}

func TestParsePort(t *testing.T) {
	if p, err := ParsePort("22"); p != 22 || err != nil {
		t.Errorf("ParsePort(22) = %d, %v", p, err)
	}
	for _, bad := range []string{"", "0", "ssh", "65536", "1:2"} {
		if _, err := ParsePort(bad); err == nil {
			t.Errorf("ParsePort(%q) was accepted", bad)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"5000", "8888:5000", ":5000", "0:5000", "::", "http", "65536:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePorts(s)
		if err != nil {
			return
		}
		if p.Remote == 0 {
			t.Fatalf("ParsePorts(%q) accepted remote port 0", s)
		}
		again, err := ParsePorts(p.String())
		if err != nil || again != p {
			t.Fatalf("ParsePorts(%q) = %v, read back as %v, %v", s, p, again, err)
		}
	})
}

func TestParsePortSpec(t *testing.T) {
	for in, want := range map[string]PortSpec{
		"80":         {Local: 80, Remote: 80},
		"8080:80":    {Local: 8080, Remote: 80},
		":80":        {Remote: 80},
		"https":      {Name: "https", Same: true},
		"8443:https": {Local: 8443, Name: "https"},
		":https":     {Name: "https"},
		"0:8080-tcp": {Name: "8080-tcp"},
		"443:0":      {},
		"x:https":    {},
		"1:2:https":  {},
		"http s":     {},
		"1:-":        {},
		"":           {},
	} {
		got, err := ParsePortSpec(in)
		if (want == PortSpec{}) != (err != nil) || got != want {
			t.Errorf("ParsePortSpec(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func FuzzParsePortSpec(f *testing.F) {
	for _, s := range []string{"80", "1:http", ":x", "1:2:3", "http"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePortSpec(s)
		if err == nil && (p.Name == "") == (p.Remote == 0) {
			t.Errorf("ParsePortSpec(%q) = %+v", s, p)
		}
	})
}
