package kube

import (
	"context"
	"errors"
	"net/http"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/audit"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// doorHTTP is the way in of requests that were refused before it was clear what
// they would speak.
const doorHTTP = "http"

// deny answers a request that may not ask for a connection, and writes that down.
func (f *front) deny(w http.ResponseWriter, r *http.Request, who relay.Identity, t relay.Target, err error) {
	log := f.kube.cfg.Audit
	if log != nil && !errors.Is(err, context.Canceled) && stream.CodeOf(err) != stream.GoingAway {
		log.Write(audit.Record{
			Event: audit.AccessRefused, Door: doorHTTP, User: who.Name, Groups: who.Groups, From: r.RemoteAddr,
			Namespace: t.Namespace, Pod: t.Pod, Code: stream.CodeOf(err).String(), Reason: err.Error(),
		})
	}
	refuse(w, r, err)
}
