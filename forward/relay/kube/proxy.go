package kube

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/relay"
)

const (
	// copySize is how much of a body is copied at once.
	copySize = 32 << 10
	// bodyIdle is how long the body of a request may stand still.
	bodyIdle = 5 * time.Minute
	// handshakeTime bounds the answer to an upgrade. A plain request has no such
	// limit: the logs of a silent container begin when it speaks.
	handshakeTime = time.Minute
)

// proxy passes requests on to the API server.
//
// Identity is none of its business: the transports of Kube take away whatever in
// a request says who sent it and put the credential of its context in its place,
// after everything that is done here.
type proxy struct {
	kube    *Kube
	reverse httputil.ReverseProxy
	joiner  forward.Joiner
	troubles noise
}

func newProxy(k *Kube) *proxy {
	p := &proxy{kube: k, troubles: noise{log: k.cfg.Log}}
	p.reverse = httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p,
		FlushInterval:  -1, // a watch is read line by line
		ModifyResponse: p.check,
		ErrorHandler:   p.failed,
		ErrorLog:       slog.NewLogLogger(k.cfg.Log.Handler(), slog.LevelDebug), // clients that left in the middle
		BufferPool:     newBuffers(copySize),
	}
	return p
}

// passage is one request on its way through the proxy.
type passage struct {
	who      relay.Identity
	protocol string // to switch to, or ""
	in       *http.Request
	// switched is the API server's answer to an upgrade, once it took it.
	switched *http.Response
}

type passageKey struct{}

func passageOf(r *http.Request) *passage {
	p, _ := r.Context().Value(passageKey{}).(*passage)
	return p // proxy.serve has put it there
}

// serve passes r on as who, whom front.caller has returned. protocol is the one
// to switch to, or "".
func (p *proxy) serve(w http.ResponseWriter, r *http.Request, who relay.Identity, protocol string) {
	c, err := credentialOf(who)
	if err != nil {
		refuse(w, r, err)
		return
	}
	way := &passage{who: who, protocol: protocol, in: r}
	ctx := context.WithValue(withCredential(r.Context(), c), passageKey{}, way)
	out := r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = &restlessBody{ReadCloser: r.Body, control: http.NewResponseController(w)}
	}
	p.reverse.ServeHTTP(w, out)
}

// rewrite makes the request to the API server. Hop-by-hop headers are gone, but
// for those of an upgrade.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	way, out := passageOf(pr.In), pr.Out
	pr.SetURL(p.kube.api)
	out.URL.RawQuery = pr.In.URL.RawQuery // it is the API server's to read, also where it is odd
	out.Trailer = nil
	if way.protocol != "" {
		out.Header["Connection"] = []string{"Upgrade"}
		out.Header["Upgrade"] = []string{way.protocol}
	}
	for name := range out.Header {
		if claimsOrigin(http.CanonicalHeaderKey(name)) {
			delete(out.Header, name)
		}
	}
	// The audit log of the API server has it among sourceIPs.
	if host, _, err := net.SplitHostPort(pr.In.RemoteAddr); err == nil {
		out.Header["X-Forwarded-For"] = []string{host}
	}
}

// claimsOrigin tells whether a header of that name says where a request comes
// from. What a client says about that is not passed on.
func claimsOrigin(name string) bool {
	return name == "X-Real-Ip" || name == "Forwarded" ||
		strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, headerRemote)
}

// errSwitched ends ReverseProxy's part in an upgrade that the API server took.
var errSwitched = errors.New("the API server switched protocols")

// RoundTrip sends a request to the API server. A 101 does not go back through
// ReverseProxy, which would drop what the client has sent already, and would not
// wait for the end of what it starts.
func (p *proxy) RoundTrip(out *http.Request) (*http.Response, error) {
	way := passageOf(out)
	if way.protocol == "" {
		return p.kube.pass.RoundTrip(out)
	}
	ctx, cancel := context.WithCancelCause(out.Context())
	late := time.AfterFunc(handshakeTime, func() { cancel(context.DeadlineExceeded) })
	defer late.Stop() // the body, or the connection, has all the time it wants
	res, err := p.kube.upgrade.RoundTrip(out.WithContext(ctx))
	switch {
	case err != nil:
		defer cancel(nil)
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(err, cause)
		}
		return nil, err
	case res.StatusCode == http.StatusSwitchingProtocols:
		way.switched = res
		cancel(nil)
		return nil, errSwitched
	}
	res.Body = &endingBody{res.Body, func() { cancel(nil) }}
	return res, nil
}

// check looks at an answer other than 101 to an upgrade, which RoundTrip has
// taken care of.
func (p *proxy) check(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("the API server switched protocols and was not asked to")
	}
	if passageOf(res.Request).protocol != "" {
		// The client may have begun to speak the protocol it asked for. That must
		// never be taken for its next request.
		res.Header.Set("Connection", "close")
	}
	return nil
}

// endingBody tells when it was closed.
type endingBody struct {
	readCloser
	ended func()
}
