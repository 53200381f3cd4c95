package reach

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestPolicy(t *testing.T) {
	web, db := []PortRange{{80, 80}, {8000, 8099}}, []PortRange{{5432, 5432}}
	for _, tt := range []struct {
		name   string
		policy Policy
		pod    sandbox.Pod
		port   uint16
		want   string // empty: may pass
	}{
		{"nothing set", Policy{}, sandbox.Pod{Namespace: "shop"}, 1, ""},
		{"host network", Policy{}, sandbox.Pod{HostNetwork: true}, 80, "host networking"},
		{"host network allowed", Policy{AllowHostNetwork: true}, sandbox.Pod{HostNetwork: true}, 80, ""},
		{"host network allowed, port not", Policy{AllowHostNetwork: true, DenyPorts: web}, sandbox.Pod{HostNetwork: true}, 80, "port 80"},
		{"namespace allowed", Policy{AllowNamespaces: []string{"a", "shop"}}, sandbox.Pod{Namespace: "shop"}, 80, ""},
		{"namespace not allowed", Policy{AllowNamespaces: []string{"a"}}, sandbox.Pod{Namespace: "shop"}, 80, "namespace shop"},
		{"no namespace", Policy{AllowNamespaces: []string{"a"}}, sandbox.Pod{}, 80, "namespace"},
		{"namespace denied", Policy{DenyNamespaces: []string{"shop"}}, sandbox.Pod{Namespace: "shop"}, 80, "namespace shop"},
		{"denied wins", Policy{AllowNamespaces: []string{"shop"}, DenyNamespaces: []string{"shop"}}, sandbox.Pod{Namespace: "shop"}, 80, "namespace shop"},
		{"case matters", Policy{DenyNamespaces: []string{"Shop"}}, sandbox.Pod{Namespace: "shop"}, 80, ""},
		{"port allowed", Policy{AllowPorts: web}, sandbox.Pod{}, 8099, ""},
		{"port not allowed", Policy{AllowPorts: web}, sandbox.Pod{}, 8100, "port 8100"},
		{"port denied", Policy{DenyPorts: db}, sandbox.Pod{}, 5432, "port 5432"},
		{"port denied wins", Policy{AllowPorts: web, DenyPorts: web}, sandbox.Pod{}, 80, "port 80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.policy.Check(tt.pod, tt.port)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.Is(err, &stream.Error{Code: stream.Policy}) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

func TestParsePorts(t *testing.T) {
	for list, want := range map[string][]PortRange{
		"":                   nil,
		"80":                 {{80, 80}},
		" 80 , 8000 - 8100 ": {{80, 80}, {8000, 8100}},
		"1-65535":            {{1, 65535}},
		"443,443":            {{443, 443}, {443, 443}},
	} {
		if got, err := ParsePorts(list); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, list := range []string{",", "80,", " ", "0", "65536", "-1", "80-", "-80", "1-2-3", "90-80", "http", "+80", "8e1", "0x50", "80;90", "１"} {
		if got, err := ParsePorts(list); err == nil {
			t.Errorf("%q: %v", list, got)
		}
	}
}

// FuzzParsePorts checks that what is parsed is what was written: ranges that do
// not end before they begin, and the same again when they are written out.
func FuzzParsePorts(f *testing.F) {
	for _, seed := range []string{"", "80", "80,443,8000-8100", "1-65535", " 7 - 9 ,", "0", "-", ",,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		got, err := ParsePorts(list)
		if err != nil {
			if got != nil {
				t.Fatalf("%v beside an error", got)
			}
			return
		}
		if (list == "") != (got == nil) {
			t.Fatalf("%q is %v: a list of nothing would permit everything", list, got)
		}
		var again []string
		for _, r := range got {
			if r.From == 0 || r.To < r.From {
				t.Fatalf("range %v of %q", r, list)
			}
			again = append(again, fmt.Sprintf("%d-%d", r.From, r.To))
		}
		if second, err := ParsePorts(strings.Join(again, ",")); err != nil || !reflect.DeepEqual(got, second) {
			t.Fatalf("%q is %v, then %v, %v", list, got, second, err)
		}
	})
}
