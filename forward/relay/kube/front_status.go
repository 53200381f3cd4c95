package kube

import (
	"context"
	"errors"
	"net/http"

	"k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// errGoingAway is what callers hear from a relay that ends.
var errGoingAway = &stream.Error{Code: stream.GoingAway, Text: "the relay is shutting down: try again to reach another one"}

// httpAnswer is how a refusal looks over HTTP.
type httpAnswer struct {
	code   int
	reason v1.StatusReason
}

// answerOf is the one table from the codes of the relay to those of HTTP.
func answerOf(code stream.Code) httpAnswer {
	switch code {
	case stream.Unauthenticated:
		return httpAnswer{http.StatusUnauthorized, v1.StatusReasonUnauthorized}
	case stream.Forbidden, stream.Policy:
		return httpAnswer{http.StatusForbidden, v1.StatusReasonForbidden}
	case stream.PodNotFound:
		return httpAnswer{http.StatusNotFound, v1.StatusReasonNotFound}
	case stream.Malformed, stream.Unsupported:
		return httpAnswer{http.StatusBadRequest, v1.StatusReasonBadRequest}
	case stream.NamespaceGone:
		return httpAnswer{http.StatusConflict, v1.StatusReasonConflict} // the pod is there and does not run
	case stream.Overloaded:
		return httpAnswer{http.StatusTooManyRequests, v1.StatusReasonTooManyRequests}
	case stream.Timeout:
		return httpAnswer{http.StatusGatewayTimeout, v1.StatusReasonTimeout}
	case stream.AgentOffline, stream.WrongNode, stream.Unreachable, stream.GoingAway, stream.NotListening, stream.PodReset, stream.Canceled:
		return httpAnswer{http.StatusServiceUnavailable, v1.StatusReasonServiceUnavailable}
	default:
		return httpAnswer{http.StatusInternalServerError, v1.StatusReasonInternalError}
	}
}

// Refuse answers a request that comes to nothing with a Status, as kube-apiserver
// would. err has a *stream.Error in its chain, or is a fault of the relay.
func Refuse(w http.ResponseWriter, r *http.Request, err error) { refuse(w, r, err) }

// refuse answers a request with what went wrong, as kube-apiserver would.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody listens any more
	}
	code := stream.CodeOf(err)
	text := stream.TextOf(err)
	switch {
	case text != "":
	case code == stream.Timeout:
		text = "the relay waited too long for an answer: try again"
	case code == stream.Internal:
		text = "the relay failed: its log says why"
	default:
		text = code.String()
	}
	a := answerOf(code)
	if a.code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	kubectl.WriteStatus(w, r, a.code, string(a.reason), text)
}
