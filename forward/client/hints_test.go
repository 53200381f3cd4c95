package client

import (
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// TestHints holds every hint to the voice of the command: one line, lower
// case, no full stop.
func TestHints(t *testing.T) {
	for _, a := range []Advice{{}, {Program: "kubectl culvert", Cluster: true}} {
		for code := stream.NotListening; !strings.HasPrefix(code.String(), "code-"); code++ {
			h := a.Hint(code, Target{"ns", "web", 80})
			if strings.ContainsAny(h, "\n") || strings.HasSuffix(h, ".") || h != "" && strings.ToLower(h[:1]) != h[:1] {
				t.Errorf("%v: %q", code, h)
			}
		}
	}
	if h := (Advice{}).Hint(stream.PodNotFound, Target{"ns", "web", 80}); h != "list the pods with: culvert get pods -n ns" {
		t.Errorf("hint %q", h)
	}
	if h := (Advice{Program: "kubectl culvert"}).Hint(stream.AgentOffline, Target{}); !strings.HasSuffix(h, ": kubectl culvert get nodes") {
		t.Errorf("hint %q", h)
	}
	if h := (Advice{}).Hint(stream.OK, Target{}); h != "" {
		t.Errorf("hint for success: %q", h)
	}
}
