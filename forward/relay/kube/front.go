package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/kubectl"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// admission bounds all that is asked before a port-forward request is let in.
	admission = 20 * time.Second
	// agentTime is how long an agent that is not connected is waited for, since one
	// that is replaced or whose relay was replaced comes back in a moment, and how
	// often it is looked for.
	agentTime, agentPause = 3 * time.Second, 100 * time.Millisecond
)

// Dialer is what the front needs of a relay.Server.
type Dialer interface {
	// Dial opens a connection to a pod on behalf of a caller. It authorizes and
	// locates anew every time.
	Dial(ctx context.Context, c relay.Call) (*relay.Link, error)
	// Reaches tells whether the agent of a node is connected.
	Reaches(node string) error
	// Permits tells whether the policy lets the caller reach the port, or with the
	// port 0 any port, of a pod that is there.
	Permits(ctx context.Context, who relay.Identity, t relay.Target, at relay.Place) error
	// BeginSession and BeginRequest count a session of a user and a request of a
	// credential in, or refuse them. end is called once.
	BeginSession(ctx context.Context, who relay.Identity) (end func(), err error)
	BeginRequest(ctx context.Context, credential, from string) (end func(), err error)
	// Draining is closed when the relay has begun to go away.
	Draining() <-chan struct{}
}

// Front is what stock clients of a cluster talk to instead of the API server:
// pods/NAME/portforward goes to srv by way of portforward, everything else to the
// API server, with the credential that the caller came with.
//
// The handler wants an http.Server without a timeout for whole requests, since a
// watch has no end; one for headers and one for idle connections are the server's
// business. A request returns when what it started has ended, an upgraded one
// too; the end of the request's context ends either.
func (k *Kube) Front(srv Dialer, portforward *kubectl.Handler) http.Handler {
	return &front{
		kube:     k,
		draining: srv.Draining(),
		reaches:  srv.Reaches,
		permits:  srv.Permits,
		session:  srv.BeginSession,
		request:  srv.BeginRequest,
		dial: func(ctx context.Context, c relay.Call) (kubectl.Connection, error) {
			link, err := srv.Dial(ctx, c)
			if err != nil {
				return nil, err // no Link that is nil within an interface that is not
			}
			return link, nil
		},
		portforward: portforward.ServeSession,
		proxy:       newProxy(k),
	}
}

// front is the handler of Kube.Front.
type front struct {
	kube        *Kube
	draining    <-chan struct{}
	reaches     func(node string) error
	permits     func(context.Context, relay.Identity, relay.Target, relay.Place) error
	session     func(context.Context, relay.Identity) (end func(), err error)
	request     func(ctx context.Context, credential, from string) (end func(), err error)
	dial        func(context.Context, relay.Call) (kubectl.Connection, error)
	portforward func(http.ResponseWriter, *http.Request, kubectl.Session, []uint16)
	proxy       *proxy
}

// ServeHTTP answers one request.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	kind := kindPlain
	defer func() {
		f.kube.metrics.frontRequest(kind, rec.outcome())
		if rec.status >= http.StatusBadRequest {
			limit(rec, f.proxy.strangerTime) // what net/http has not sent yet
		}
	}()

	r, err := unambiguous(r)
	if err != nil {
		f.deny(rec, r, relay.Identity{}, relay.Target{}, err)
		return
	}
	target, forwards, err := portforwardTarget(r.URL)
	protocol, upErr := upgradeOf(r)
	switch {
	case forwards || err != nil:
		kind = kindPortForward
	case protocol != "" || upErr != nil:
		kind = kindUpgrade
	}
	if err = errors.Join(err, upErr); err != nil {
		f.deny(rec, r, relay.Identity{}, target, err)
		return
	}
	who, err := f.caller(r)
	if err != nil {
		f.deny(rec, r, who, target, err)
		return
	}
	done, err := f.count(r, who)
	if err != nil {
		f.deny(rec, r, who, target, err)
		return
	}
	defer done()
	if forwards {
		f.forward(rec, r, who, target)
		return
	}
	f.proxy.serve(rec, r, who, protocol)
}

// caller says who sent r.
func (f *front) caller(r *http.Request) (relay.Identity, error) {
	who, err := f.kube.Caller(r)
	if err != nil {
		return who, err
	}
	c, err := credentialOf(who)
	if err != nil {
		return who, err
	}
	if asks(r.Header) && c.header.Get(headerAuthorization) == "" {
		// Nobody's request would go out without the name it asks for.
		return who, &stream.Error{Code: stream.Forbidden, Text: "impersonation takes a bearer token of one's own: leave out --as, or log in"}
	}
	return who, nil
}

// count counts a request in for the credential that came with it. Whoever shows none
// is known by his address.
func (f *front) count(r *http.Request, who relay.Identity) (done func(), err error) {
	c, err := credentialOf(who)
	if err != nil {
		return nil, err
	}
	as := string(c.key[:])
	if c.nobody() {
		as, _, _ = net.SplitHostPort(r.RemoteAddr)
	}
	return f.request(r.Context(), as, r.RemoteAddr)
}

// forward serves a port-forward request. All that can be refused is refused
// before the upgrade, where the client shows its user the reason.
func (f *front) forward(w http.ResponseWriter, r *http.Request, who relay.Identity, target relay.Target) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		kubectl.WriteStatus(w, r, http.StatusMethodNotAllowed, "MethodNotAllowed", "port-forward takes GET with a WebSocket upgrade or POST with a SPDY one")
		return
	}
	ports, err := kubectl.ParsePorts(r.URL.Query())
	if err != nil {
		kubectl.WriteStatus(w, r, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	// The end of ctx ends the watch of the session, before Kube.Close waits for it.
	ctx, cancel := context.WithCancel(relay.WithSource(r.Context(), relay.ParseSource(r.RemoteAddr)))
	defer cancel()
	known, err := f.admit(ctx, who, target)
	if err != nil {
		if known.Name != "" { // else who is as he came
			who = known
		}
		f.deny(w, r, who, target, err)
		return
	}
	end, err := f.session(ctx, known)
	if err != nil {
		f.deny(w, r, known, target, err)
		return
	}
	defer end()
	s := f.newSession(ctx, r, known, target)
	defer s.wait()
	defer cancel()
	f.portforward(w, r.WithContext(ctx), s, ports)
}

// admit asks, whatever the method of the request, whether the caller may make
// port forwards to the pod, whether there is such a pod, whether the policy lets him
// reach any port of it, and whether there is a way to it.
func (f *front) admit(ctx context.Context, who relay.Identity, target relay.Target) (relay.Identity, error) {
	select {
	case <-f.draining:
		return who, errGoingAway
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, admission)
	defer cancel()
	who, err := f.kube.Known(ctx, who)
	if err != nil {
		return who, err
	}
	if err := f.kube.Authorize(ctx, who, target); err != nil {
		return who, err
	}
	place, err := f.kube.Locate(ctx, who, target)
	if err != nil {
		return who, err
	}
	if f.reaches(place.Node) == nil {
		return who, f.permits(ctx, who, target, place)
	}
	// That place may be an old one.
	f.kube.Forget(target, place)
	if place, err = f.kube.Locate(ctx, who, target); err != nil {
		return who, err
	}
	if err := f.permits(ctx, who, target, place); err != nil {
		return who, err
	}
	return who, f.awaitAgent(ctx, place.Node)
}

func (f *front) awaitAgent(ctx context.Context, node string) error {
	pause := time.NewTicker(agentPause)
	defer pause.Stop()
	for until := time.Now().Add(agentTime); ; {
		err := f.reaches(node)
		if err == nil || time.Now().After(until) {
			return err
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
