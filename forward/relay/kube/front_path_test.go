package kube

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// own, passed and refused is what can become of a path.
const (
	own     = "port-forward"
	passed  = "passed on"
	refused = "refused"
)

func TestPortForwardPath(t *testing.T) {
	tests := map[string]string{
		"/api/v1/namespaces/n/pods/p/portforward": own,

		// kube-apiserver takes these for port forwards too.
		"/api/v1/namespaces/n/pods/p/portforward/":                          refused,
		"/api/v1/namespaces/n/pods/p/portforward///":                        refused,
		"/api/v1/namespaces/n/pods/p%2Fportforward":                         refused,
		"/api/v1/namespaces%2fn/pods/p/portforward":                         refused,
		"%2Fapi/v1/namespaces/n/pods/p/portforward":                         refused,
		"/api/v1/namespaces/n/pods/p/port%66orward":                         refused,
		"/api/v1/namespaces/n/p%6Fds/p/portforward":                         refused,
		"/api/v1/namespaces/n/pods/%70/portforward":                         refused,
		"/%61pi/v1/namespaces/n/pods/p/portforward":                         refused,
		"//api/v1/namespaces/n/pods/p/portforward":                          refused,
		"/api/v1/namespaces/n/pods//p/portforward":                          refused,
		"/api/v1/namespaces/n/pods/p//portforward":                          refused,
		"/api/v1/namespaces/n/pods/./p/portforward":                         refused,
		"/api/v1/namespaces/n/pods/p/portforward/.":                         refused,
		"/api/v1/namespaces/n/pods/p/x/../portforward":                      refused,
		"/api/v1/namespaces/n/pods/p/%2e%2e/p/portforward":                  refused,
		"/api/v1/namespaces/n/services/s/proxy/../../../pods/p/portforward": refused,
		"/api/v1/namespaces/n/pods/p\x00/portforward":                       refused,

		"/api/v1/namespaces/n/pods/p/portforward/x":         passed,
		"/api/v1/namespaces/n/pods/p/portforwards":          passed,
		"/api/v1/namespaces/n/pods/p/PORTFORWARD":           passed,
		"/api/v1/namespaces/n/pods/p/exec":                  passed,
		"/api/v1/namespaces/n/pods/portforward":             passed,
		"/api/v1/namespaces/n/services/p/portforward":       passed,
		"/api/v1/namespaces/n/services/s/proxy/portforward": passed,
		"/api/v2/namespaces/n/pods/p/portforward":           passed,
		"/apis/v1/namespaces/n/pods/p/portforward":          passed,
		"/api/v1/nodes/n/proxy/portForward/n/p":             passed,
		"/api/v1/namespaces/n/pods/p/portforward%252F":      passed, // unescaped once it is no port forward
		"/":        passed,
		"/version": passed,
		"/api/v1/namespaces/n/services/s/proxy/a//b/../c%2Fd/.": passed, // whatever a service makes of it
	}
	for path, want := range tests {
		t.Run(path, func(t *testing.T) {
			u, err := url.ParseRequestURI(path)
			if err != nil {
				if u, err = url.ParseRequestURI("/" + path); err != nil {
					if want != refused { // as net/http does
						t.Error(err)
					}
					return
				}
			}
			target, is, err := portforwardTarget(u)
			got := passed
			switch {
			case err != nil && stream.CodeOf(err) == stream.Malformed:
				got = refused
			case is:
				got = own
			}
			if got != want || err != nil && is {
				t.Errorf("%s, %v, want %s", got, err, want)
			}
			if is && target != (relay.Target{Namespace: "n", Pod: "p"}) {
				t.Errorf("target %+v", target)
			}
		})
	}
}

// What is passed on must be no port forward for anybody who is as forgiving as
// can be.
func FuzzPortForwardPath(f *testing.F) {
	f.Add("/api/v1/namespaces/n/pods/p/portforward")
	f.Add("/api/v1/namespaces/n/pods/p%2fportforward/")
	f.Add("//api/v1/x/../namespaces/n/pods/p/./portforward")
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		_, is, err := portforwardTarget(u)
		mux := http.NewServeMux() // cleans paths
		mux.Handle("/api/v1/namespaces/{ns}/pods/{pod}/portforward", http.NotFoundHandler())
		_, pattern := mux.Handler(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: u.Path}})
		if pattern != "" && !is && err == nil && u.Path == pathOf(u) {
			t.Errorf("%q is passed on and matches %s", path, pattern)
		}
	})
}

func pathOf(u *url.URL) string { return (&url.URL{Path: u.Path}).Path }
