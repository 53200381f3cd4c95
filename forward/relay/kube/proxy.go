package kube

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/relay"
)

const (
	// handshakeTime bounds the answer to an upgrade. A plain request has no such
	// limit: the logs of a silent container begin when it speaks.
	handshakeTime = time.Minute
	// bodyIdle is for how long the body of a request may stand still. An answer may
	// for ever: somebody reads it in a pager.
	bodyIdle = 5 * time.Minute
	// partingTime is how long a client may stay after the API server has hung up.
	// Nothing that it still says can arrive.
	partingTime = 10 * time.Second
	// strangerTime bounds an answer to somebody who has not shown who he is. A
	// connection with something to do keeps its place among the relay's sessions, so
	// without an end to it strangers who read nothing would keep callers out.
	strangerTime = 30 * time.Second
)

// proxy passes requests on to the API server.
//
// Identity is not its business: the transports of Kube take away whatever in a
// request says who sent it and put the credential of its context there instead,
// after everything that is done here.
type proxy struct {
	kube    *Kube
	reverse httputil.ReverseProxy
	joiner  forward.Joiner
	now     rate.Sometimes // to complain

	handshakeTime, bodyIdle, partingTime, strangerTime time.Duration // other than the constants only in tests
}

func newProxy(k *Kube) *proxy {
	p := &proxy{
		kube: k, now: rate.Sometimes{Interval: 10 * time.Second},
		handshakeTime: handshakeTime, bodyIdle: bodyIdle, partingTime: partingTime, strangerTime: strangerTime,
	}
	p.reverse = httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p,
		FlushInterval:  -1, // a watch is read line by line
		ModifyResponse: p.check,
		ErrorHandler:   p.failed,
		ErrorLog:       slog.NewLogLogger(k.cfg.Log.Handler(), slog.LevelDebug), // clients that left in the middle
		BufferPool:     newBuffers(),
	}
	return p
}

// passage is one request on its way through the proxy.
type passage struct {
	who      relay.Identity
	protocol string // to switch to, or ""
	in       *http.Request
	rec      *recorder
	body     *movingBody    // of in, if it has one
	switched *http.Response // the API server's answer to an upgrade, once it took it
}

type passageKey struct{}

// passageOf returns what serve has put into the context of r.
func passageOf(r *http.Request) *passage {
	p, _ := r.Context().Value(passageKey{}).(*passage)
	return p
}

// serve passes r on as who, whom front.caller has returned. protocol is the one
// to switch to, or "".
func (p *proxy) serve(rec *recorder, r *http.Request, who relay.Identity, protocol string) {
	c, err := credentialOf(who)
	if err != nil {
		refuse(rec, r, err)
		return
	}
	way := &passage{who: who, protocol: protocol, in: r, rec: rec}
	r = r.WithContext(context.WithValue(withCredential(r.Context(), c), passageKey{}, way))
	if r.ContentLength != 0 && r.Body != nil {
		way.body = &movingBody{ReadCloser: r.Body, control: http.NewResponseController(rec), idle: p.bodyIdle}
		r.Body = way.body
	}
	p.reverse.ServeHTTP(rec, r)
}

// rewrite makes the request to the API server. Hop-by-hop headers are gone, but
// for those of an upgrade.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	way, out := passageOf(pr.In), pr.Out
	pr.SetURL(p.kube.api)
	out.URL.RawQuery = pr.In.URL.RawQuery // nothing here is decided by it, so it stays as it is
	out.Trailer = nil
	for name := range out.Header {
		if claimsOrigin(http.CanonicalHeaderKey(name)) {
			delete(out.Header, name)
		}
	}
	// The API server's audit log has it among sourceIPs.
	if host, _, err := net.SplitHostPort(pr.In.RemoteAddr); err == nil {
		out.Header["X-Forwarded-For"] = []string{host}
	}
	out.Header.Del("Upgrade") // ReverseProxy takes some for one that upgradeOf does not
	out.Header.Del("Connection")
	if way.protocol != "" {
		out.Header["Connection"] = []string{"Upgrade"}
		out.Header["Upgrade"] = []string{way.protocol}
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
// ReverseProxy, which would drop what the client has sent already and would not
// wait for what it starts.
func (p *proxy) RoundTrip(out *http.Request) (*http.Response, error) {
	way := passageOf(out)
	if way.protocol == "" {
		return p.kube.pass.RoundTrip(out)
	}
	ctx, cancel := context.WithCancelCause(out.Context())
	late := time.AfterFunc(p.handshakeTime, func() { cancel(context.DeadlineExceeded) })
	defer late.Stop() // what comes after the headers has all the time it wants
	res, err := p.kube.upgrade.RoundTrip(out.WithContext(ctx))
	switch {
	case err != nil:
		err = errors.Join(err, context.Cause(ctx))
		cancel(nil)
		return nil, err
	case res.StatusCode == http.StatusSwitchingProtocols:
		way.switched = res
		cancel(nil) // the connection is ours now, and not the transport's
		return nil, errSwitched
	}
	res.Body = &endingBody{res.Body, cancel}
	return res, nil
}

// endingBody ends the context of its request when it is closed.
type endingBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close implements io.Closer.
func (b *endingBody) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// check looks at an answer. A 101 to an upgrade never gets here.
func (p *proxy) check(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nonsenseError("it switched protocols and was not asked to")
	}
	way := passageOf(res.Request)
	if c, err := credentialOf(way.who); err != nil || c.nobody() || res.StatusCode == http.StatusUnauthorized {
		limit(way.rec, p.strangerTime)
	}
	if way.protocol != "" {
		// The client may have begun to speak the protocol it asked for. That must
		// never be read as its next request.
		res.Header.Set("Connection", "close")
	}
	return nil
}
