package kube

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"

	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// nonsenseError is an answer of the API server that must not be passed on.
type nonsenseError string

// Error says what is wrong with it.
func (e nonsenseError) Error() string { return "answer of the API server: " + string(e) }

// failed answers a request that the API server has not answered, or takes over
// after a 101.
func (p *proxy) failed(_ http.ResponseWriter, out *http.Request, err error) {
	way := passageOf(out)
	switch {
	case errors.Is(err, errSwitched):
		p.join(way)
	case errors.Is(way.body.failed(), os.ErrDeadlineExceeded):
		p.give(way, http.StatusRequestTimeout, "Timeout", "the request stopped in the middle")
	case way.body.failed() != nil:
		p.give(way, http.StatusBadRequest, "BadRequest", "the request broke off in the middle")
	case stream.CodeOf(context.Cause(way.in.Context())) == stream.GoingAway:
		refuse(way.rec, way.in, errGoingAway)
	case way.in.Context().Err() != nil:
		panic(http.ErrAbortHandler) // nobody listens any more
	default:
		p.unanswered(way, err)
	}
}

// unanswered tells the caller in general and the log in particular why there is
// no answer: the caller may be anybody, and where the API server is, is not his
// business.
func (p *proxy) unanswered(way *passage, err error) {
	p.now.Do(func() {
		p.kube.cfg.Log.Warn("pass on to the API server", "method", way.in.Method, "path", clip(way.in.URL.EscapedPath()), "err", err)
	})
	var (
		refused   *stream.Error
		untrusted *tls.CertificateVerificationError
		dial      *net.OpError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &refused):
		refuse(way.rec, way.in, err)
	case errors.Is(err, errNoCredential), errors.Is(err, errNotTheAPI):
		refuse(way.rec, way.in, &stream.Error{Code: stream.Internal})
	case errors.As(err, &untrusted):
		p.give(way, http.StatusBadGateway, "BadGateway",
			"the relay does not trust the certificate of the API server: its operator finds the reason in the relay's log")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		p.give(way, http.StatusGatewayTimeout, "Timeout", "the API server does not answer the relay: try again")
	case errors.As(err, &dial) && dial.Op == "dial":
		p.give(way, http.StatusServiceUnavailable, "ServiceUnavailable",
			"the relay cannot reach the API server: try again, and if it stays so, its operator finds the reason in the relay's log")
	default:
		p.give(way, http.StatusBadGateway, "BadGateway", "the API server gave the relay no answer that makes sense: try again")
	}
}

// give answers with a Status. Nothing that the client sends after a failed
// request or upgrade is read as its next one.
func (p *proxy) give(way *passage, code int, reason, text string) {
	if way.in.ProtoMajor == 1 {
		way.rec.Header().Set("Connection", "close")
	}
	kubectl.WriteStatus(way.rec, way.in, code, reason, text)
}
