package kube

import (
	"net/url"
	"path"
	"strings"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// portforwardTarget tells whether u is pods/NAME/portforward, and of which pod.
//
// kube-apiserver decides on the path after unescaping, forgives slashes at its
// end, and may stand behind something that forgives more. A path that only
// somebody forgiving takes for pods/NAME/portforward is an error: it would pass
// by the relay, and kubectl sends no such thing.
func portforwardTarget(u *url.URL) (target relay.Target, is bool, err error) {
	segments := strings.Split(path.Clean(u.Path), "/")
	if len(segments) != 8 || segments[0] != "" || segments[1] != "api" || segments[2] != "v1" ||
		segments[3] != "namespaces" || segments[5] != "pods" || segments[7] != "portforward" {
		return relay.Target{}, false, nil
	}
	target = relay.Target{Namespace: segments[4], Pod: segments[6]}
	if u.EscapedPath() != "/api/v1/namespaces/"+target.Namespace+"/pods/"+target.Pod+"/portforward" {
		return relay.Target{}, false, &stream.Error{
			Code: stream.Malformed,
			Text: "the path can be read as pods/NAME/portforward and is not written so: use no escapes, no dots and no extra slashes",
		}
	}
	return target, true, nil
}
