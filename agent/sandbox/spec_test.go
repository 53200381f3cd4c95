package sandbox

import (
	"errors"
	"path"
	"strings"
	"testing"
)

func TestNetworkOf(t *testing.T) {
	for _, tc := range []struct {
		name, spec string
		netns      string
		host       bool
		err        error // nil: none; errAny: some
	}{
		{name: "pod", spec: `{"ociVersion":"1.2.1","linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]}}`, netns: "/var/run/netns/cni-1"},
		{name: "host network", spec: `{"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}`, host: true},
		{name: "no namespaces at all", spec: `{"linux":{}}`, host: true},
		{name: "namespace of the runtime's own", spec: `{"linux":{"namespaces":[{"type":"network"}]}}`, err: errNoPath},
		{name: "two", spec: `{"linux":{"namespaces":[{"type":"network","path":"/a"},{"type":"network","path":"/b"}]}}`, err: errTwoNetworks},
		{name: "not linux", spec: `{"windows":{}}`, err: errNotLinux},
		{name: "linux is null", spec: `{"linux":null}`, err: errNotLinux},
		{name: "relative", spec: `{"linux":{"namespaces":[{"type":"network","path":"run/netns/a"}]}}`, err: errBadPath},
		{name: "climbing", spec: `{"linux":{"namespaces":[{"type":"network","path":"/run/netns/../../etc/a"}]}}`, err: errBadPath},
		{name: "NUL", spec: `{"linux":{"namespaces":[{"type":"network","path":"/run/\u0000"}]}}`, err: errBadPath},
		{name: "long", spec: `{"linux":{"namespaces":[{"type":"network","path":"/` + strings.Repeat("a", maxPath) + `"}]}}`, err: errBadPath},
		{name: "huge", spec: strings.Repeat(" ", maxSpec+1), err: errSpecSize},
		{name: "empty", err: errAny},
		{name: "cut off", spec: `{"linux":{"namespaces":[`, err: errAny},
		{name: "wrong kind", spec: `{"linux":{"namespaces":"network"}}`, err: errAny},
		{name: "deep", spec: strings.Repeat(`[`, 100_000), err: errAny},
	} {
		t.Run(tc.name, func(t *testing.T) {
			netns, host, err := networkOf([]byte(tc.spec))
			switch {
			case tc.err == nil && err != nil, tc.err == errAny && err == nil,
				tc.err != errAny && !errors.Is(err, tc.err):
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if netns != tc.netns || host != tc.host {
				t.Errorf("got %q, host %v; want %q, host %v", netns, host, tc.netns, tc.host)
			}
		})
	}
}

func TestSeenAt(t *testing.T) {
	for _, tc := range []struct{ dir, netns, want string }{
		{"", "/var/run/netns/cni-1", "/var/run/netns/cni-1"},
		{"/run/netns", "/var/run/netns/cni-1", "/run/netns/cni-1"},
		{"/run/netns", "/run/netns/cni-1", "/run/netns/cni-1"},
		{"/host/netns", "/var/run/netns/cni-1", "/host/netns/cni-1"},
		{"/host/netns/", "/run/netns/..data", "/host/netns/..data"},
		{"/host/netns", "/run/netns/deeper/cni-1", "/run/netns/deeper/cni-1"},
		{"/host/netns", "/run/netns", "/run/netns"},
		{"/host/netns", "/run/containerd/cri/netns/cni-1", "/run/containerd/cri/netns/cni-1"},
		{"/var/run/docker/netns", "/var/run/docker/netns/0a1b", "/var/run/docker/netns/0a1b"},
		{"/host/netns", "/proc/4711/ns/net", "/proc/4711/ns/net"},
		{"/host/netns", "", ""}, // host networking
	} {
		if got := seenAt(tc.dir, tc.netns); got != tc.want {
			t.Errorf("%q seen in %q: %q, want %q", tc.netns, tc.dir, got, tc.want)
		}
	}
}

var errAny = errors.New("any error")

func FuzzNetworkOf(f *testing.F) {
	f.Add([]byte(`{"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/cni-1"}]}}`))
	f.Add([]byte(`{"linux":{"namespaces":[{"type":"network"}]}}`))
	f.Add([]byte(`{"linux":{"namespaces":[{"type":"pid"}]}}`))
	f.Add([]byte(`{"linux":{"namespaces":[{"type":"network","path":"/run/netns/..."}]}}`))
	f.Fuzz(func(t *testing.T, spec []byte) {
		netns, host, err := networkOf(spec)
		switch {
		case err != nil && (netns != "" || host):
			t.Errorf("an error and an answer: %q, host %v, %v", netns, host, err)
		case err == nil && host == (netns != ""):
			t.Errorf("host %v, but path %q", host, netns)
		case netns != "" && (!path.IsAbs(netns) || len(netns) > maxPath):
			t.Errorf("path %q", netns)
		}
		if seen := seenAt("/host/netns", netns); seen != netns && (path.Dir(seen) != "/host/netns" || path.Base(seen) != path.Base(netns)) {
			t.Errorf("%q is seen at %q", netns, seen)
		}
	})
}
