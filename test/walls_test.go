package test

import (
	"slices"
	"strings"
	"testing"
)

// room is a package of the product and the packages of the product that it may
// import. A new room needs a line here: its own reason to change. What room x
// offers to tests lies in x/xtest, counts as a test and needs no line.
type room struct {
	dir string   // "x" is that package, "x/..." it and all below
	may []string // likewise
	why string
}

var rooms = []room{
	{"forward", nil, "everybody speaks of forwarded connections, so the word may depend on nobody"},
	{"forward/tunnel", []string{"forward", "proto/stream"}, "carries streams without knowing who sends them or where to"},
	{
		"forward/tunnel/identity", []string{"proto/stream"},
		"credentials outlive tunnels: how bytes are carried must not decide who somebody is",
	},
	{
		"forward/tunnel/connect", []string{"forward/tunnel", "forward/tunnel/identity", "forward/tunnel/rpc", "proto/stream"},
		"agent and client reach a relay in the same way; what they do then is theirs",
	},
	{"forward/tunnel/rpc", nil, "gRPC over any stream: the session below and the services above are its callers' choice"},

	{
		"forward/client", []string{"forward", "forward/tunnel/...", "proto/..."},
		"the client runs on people's machines: no relay, no agent, no namespaces",
	},
	{
		"forward/client/kube", []string{"forward/client", "proto/stream"},
		"where the pod of a target is, asked of the API server as the user; the rest of the client works without",
	},
	{
		"forward/relay", []string{"measure", "forward", "forward/relay/audit", "forward/relay/policy", "forward/tunnel/...", "proto/..."},
		"the relay must work without Kubernetes; relay/kube plugs into it, not the other way round",
	},
	{"forward/relay/audit", nil, "what is written down for others to read has a schema and a life of its own"},
	{
		"forward/relay/policy", []string{"forward/tunnel/identity"},
		"what may be reached is decided without a relay, so that a file can be tried out where it is written",
	},
	{
		"forward/relay/kube", []string{"measure", "forward/relay", "forward/relay/audit", "forward/relay/kubectl", "forward/relay/policy", "forward", "forward/tunnel/identity", "proto/..."},
		"answers the relay's questions about callers and pods, and passes on what is not port-forward",
	},
	{
		"forward/relay/standalone", []string{"forward/relay/authority", "forward/tunnel/identity", "proto/stream"},
		"certificates, tokens and names in a directory; knows no stream and no session",
	},
	{
		"forward/relay/kube/keeper", []string{"forward/relay/authority"},
		"the relay's certificates in a Secret: needs rights of its own, which nothing else should have",
	},
	{
		"forward/relay/authority", []string{"forward/tunnel/identity"},
		"how a relay makes its certificates, wherever they are kept",
	},
	{
		"forward/relay/kubectl", []string{"forward", "proto/..."},
		"a wire format: testable without a relay",
	},

	{"measure", nil, "a histogram as Prometheus knows it; what is counted belongs to others"},
	{"netns", nil, "holds the dangerous system calls: small enough to be read in one sitting"},
	{"proto/stream", nil, "a wire format is read by both ends, so it belongs to neither"},
	{"proto/control/v1", nil, "generated; the two halves of proto must not know each other"},

	{
		"agent", []string{"measure", "forward", "forward/tunnel/...", "proto/...", "agent/reach", "agent/sandbox"},
		"on every node, and may be privileged: nothing of the relay or the client may be linked into it",
	},
	{
		"agent/reach", []string{"forward", "proto/stream", "netns", "agent/sandbox"},
		"what needs the powers, with the policy on them: knows no tunnel and no relay",
	},
	{
		"agent/broker", []string{"forward", "proto/stream", "netns", "agent/reach", "agent/sandbox"},
		"between the process with the powers and the one on the network: what it links is what can be attacked there",
	},
	{"agent/sandbox", []string{"netns"}, "changes when container runtimes change, and with nothing else"},

	{
		"cmd/culvert/...", []string{"cmd/internal/...", "cmd/culvert/...", "forward/...", "proto/..."},
		"the roof over forward/client",
	},
	{
		"cmd/culvert-relay/...", []string{"measure", "cmd/internal/...", "cmd/culvert-relay/...", "forward/...", "proto/..."},
		"the roof over forward/relay",
	},
	{
		"cmd/culvert-agent/...", []string{
			"cmd/internal/...", "cmd/culvert-agent/...", "agent/...", "netns", "forward", "forward/tunnel/...", "proto/...",
		},
		"the roof over agent; what it links runs privileged",
	},
	{"cmd/internal/...", []string{"cmd/internal/..."}, "what processes share at their start: no business of a room"},
	{"deploy/...", nil, "manifests and their checks"},
	{"test/...", nil, "crosses processes, so it may see everything; nothing may see it"},
}

// ends are the rooms that never meet, not even in a test of one of them: a test
// that needs two of them crosses processes and lives in test/.
var ends = []string{"agent/...", "forward/client/...", "forward/relay/..."}

// fence keeps an import to a few rooms of the product. Tests and test/ are
// outside all fences, since they do not ship.
type fence struct {
	imported string   // import path, or a prefix of it ending in "/..."
	only     []string // rooms that may import it
	why      string
}

var fences = []fence{
	{
		"github.com/hashicorp/yamux/...", []string{"forward/tunnel"},
		"its faults are cured in one place; its words must not leak into others",
	},
	{
		"github.com/vishvananda/netns/...", []string{"netns"},
		"whoever switches namespaces owns the thread; only netns knows the way home",
	},
	{
		"golang.org/x/sys/...", []string{"netns", "forward/tunnel"},
		"system calls are kept where they can be read: namespaces and socket options",
	},
	{
		"github.com/containerd/...", []string{"agent/sandbox"},
		"which runtime a node has must be able to change in one room",
	},
	{
		"github.com/opencontainers/...", []string{"agent/sandbox"},
		"comes with the runtime",
	},
	{
		"k8s.io/...", []string{"forward/relay/kube/...", "forward/client/kube", "cmd/culvert"},
		"the API server is asked in few places, and the agent must never link its client",
	},
	{"sigs.k8s.io/...", []string{"forward/relay/kube/...", "forward/client/kube", "cmd/culvert"}, "as k8s.io"},
	{
		"go.yaml.in/...", []string{"forward/relay/policy"},
		"files of the product's own are read where their lines are known",
	},
	{
		"github.com/moby/spdystream/...", []string{"forward/relay/kubectl"},
		"the wire of kubectl is spoken in one room",
	},
	{"github.com/coder/websocket/...", []string{"forward/relay/kubectl"}, "as spdystream"},
	{
		"google.golang.org/grpc/...", []string{
			"forward/tunnel/rpc", "forward/tunnel/connect", "proto/control/v1", "agent", "forward/client", "forward/relay",
			"agent/sandbox", // containerd speaks it
		},
		"the control plane; no forwarded byte may pass through it, and commands talk to rooms",
	},
	{
		"github.com/VictoriaMetrics/metrics/...", []string{"agent", "forward/relay/...", "cmd/..."},
		"counters belong to the one who owns what they count",
	},
	{"github.com/spf13/...", []string{"cmd/..."}, "flags end at cmd"},
	{"flag", []string{"cmd/..."}, "flags end at cmd"},
	{
		"log/slog", []string{"agent", "agent/broker", "forward/client", "forward/relay/...", "cmd/..."},
		"leaf rooms return errors and do not log",
	},
	{"log", nil, "log/slog is the only logger, handed in by Config"},
	{"os/exec", []string{"cmd/culvert"}, "no helper program ever stands in the way of a byte, least of all a privileged one"},
	{"plugin", nil, "what runs privileged is what was built"},
	{"net/http/pprof", nil, "registers itself with every server of the process; boot.Debug does not"},
	{"expvar", nil, "as net/http/pprof"},
	{"math/rand", nil, "math/rand/v2 for jitter, crypto/rand for names and tokens"},
	{"unsafe", []string{"proto/control/v1"}, "needed nowhere; generated code uses it"},
	{module + "/test/...", nil, "the product must not depend on its tests"},
}

// forTests tells whether a file does not ship: a test, a room made for tests
// (forward/forwardtest), or anything in test/.
func forTests(f *sourceFile) bool {
	return f.isTest() || isDouble(f.dir) || matches("test/...", f.dir)
}

func isDouble(dir string) bool {
	return strings.HasSuffix(dir, "test") && dir != "test"
}

// matches tells whether name is what pattern names.
func matches(pattern, name string) bool {
	tree, ok := strings.CutSuffix(pattern, "...")
	if !ok {
		return pattern == name
	}
	return tree == "" || name+"/" == tree || strings.HasPrefix(name, tree)
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

// roomOf returns the room that dir belongs to: the line that names it exactly,
// else the first one that takes in the tree it is in.
func roomOf(dir string) (room, bool) {
	if i := slices.IndexFunc(rooms, func(r room) bool { return r.dir == dir }); i >= 0 {
		return rooms[i], true
	}
	i := slices.IndexFunc(rooms, func(r room) bool { return matches(r.dir, dir) })
	if i < 0 {
		return room{}, false
	}
	return rooms[i], true
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for _, f := range readSource(t) {
		r, ok := roomOf(f.dir)
		if !ok && !isDouble(f.dir) {
			t.Errorf("%s: no room of this name: add it to the rooms in walls_test.go and say in docs/decisions why it is one", f.path())
			continue
		}
		for _, imported := range f.imports {
			if imported == module {
				t.Errorf("%s imports the root of the module: nothing lives there", f.path())
			}
			dir, ours := strings.CutPrefix(imported, module+"/")
			if !ours || dir == f.dir {
				continue
			}
			if forTests(f) {
				checkEnds(t, f, dir)
			} else if isDouble(dir) {
				t.Errorf("%s imports %s, which is for tests only", f.path(), dir)
			} else if !matchesAny(r.may, dir) {
				t.Errorf("%s imports %s, which %s may not: %s", f.path(), dir, r.dir, r.why)
			}
		}
	}
}

func checkEnds(t *testing.T, f *sourceFile, imported string) {
	t.Helper()
	for _, end := range ends {
		if matches(end, f.dir) {
			continue
		}
		if matches(end, imported) && matchesAny(ends, f.dir) {
			t.Errorf("%s imports %s: a test of two ends crosses processes and lives in test/", f.path(), imported)
		}
	}
}

func TestFencedImportsStayInside(t *testing.T) {
	for _, f := range readSource(t) {
		if forTests(f) {
			continue
		}
		for _, imported := range f.imports {
			for _, fence := range fences {
				if matches(fence.imported, imported) && !matchesAny(fence.only, f.dir) {
					t.Errorf("%s imports %s: %s", f.path(), imported, fence.why)
				}
			}
		}
	}
}

func TestWallsAreReal(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"forward", "forward", true},
		{"forward", "forward/tunnel", false},
		{"forward/...", "forward", true},
		{"forward/...", "forward/tunnel", true},
		{"forward/...", "forwarder", false},
		{"k8s.io/...", "k8s.io/client-go/rest", true},
		{"log", "log/slog", false},
		{"...", "anything", true},
	}
	for _, tt := range tests {
		if got := matches(tt.pattern, tt.name); got != tt.want {
			t.Errorf("matches(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
	for _, r := range rooms {
		if r.why == "" {
			t.Errorf("room %s has no reason", r.dir)
		}
	}
	for _, f := range fences {
		if f.why == "" {
			t.Errorf("fence around %s has no reason", f.imported)
		}
	}
}
