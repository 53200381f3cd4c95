package kube

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/culvert-k8s/culvert/forward/relay"
)

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// What belongs to a trace does so at the API server too, unchanged.
func TestTraceIsPassedOn(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }})
	rig.dial().send("GET /api/v1/pods HTTP/1.1", "Host: x", "Authorization: Bearer "+janesToken,
		"traceparent: "+traceparent, "tracestate: a=b").response()
	seen := rig.only()
	if seen.Header.Get("Traceparent") != traceparent || seen.Header.Get("Tracestate") != "a=b" {
		t.Errorf("the API server sees %q", seen.Header)
	}
}

// A port-forward request gives its trace to its connections; one that is none is
// thrown away.
func TestTraceOfASession(t *testing.T) {
	for header, want := range map[string]string{traceparent: "4bf92f3577b34da6a3ce929d0e0e4736", "nonsense": "", "": ""} {
		b := newBench(t, Config{})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, webPath, http.NoBody)
		r.Header.Set("Traceparent", header)
		ctx, cancel := context.WithCancel(t.Context())
		s := b.newSession(ctx, r, relay.Identity{}, relay.Target{Namespace: "ns", Pod: "web"})
		if got := s.trace.TraceID(); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
		cancel()
		s.wait()
		_ = b.kube.Close()
	}
}
