package kube

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// maxAnswer bounds the answer to one question, in bytes. A pod is the largest
// thing asked for, and etcd takes none above 1.5 MiB.
const maxAnswer = 8 << 20

// calls are the questions this package asks, one client for each group and each
// way to prove who asks.
type calls struct {
	review  rest.Interface // TokenReview, as the relay
	whoami  rest.Interface // SelfSubjectReview, as a caller
	may     rest.Interface // SelfSubjectAccessReview, as a caller
	core    rest.Interface // pods, as a caller
	timeout time.Duration
	agents  chan struct{} // a place for each question about agents that waits
	callers chan struct{} // likewise about callers
	log     logr.Logger
	metrics *metrics
}

func newCalls(cfg *Config, api *url.URL, own *ownToken, base http.RoundTripper, m *metrics) (*calls, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(authenticationv1.AddToScheme(scheme), authorizationv1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	base = bounded{maxAnswer, base}
	relays := &asRelay{host: api.Host, path: api.Path, own: own, next: base}
	callers := &asCaller{host: api.Host, path: api.Path, own: own, next: base}
	client := func(apiPath string, gv schema.GroupVersion, rt http.RoundTripper) (rest.Interface, error) {
		return rest.RESTClientForConfigAndClient(&rest.Config{
			Host: api.String(), APIPath: apiPath, UserAgent: cfg.UserAgent,
			ContentConfig: rest.ContentConfig{
				GroupVersion: &gv, NegotiatedSerializer: codecs, ContentType: runtime.ContentTypeJSON,
			},
			QPS:            -1, // the limits are this package's
			WarningHandler: rest.NoWarnings{},
		}, &http.Client{
			Transport:     rt,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		})
	}
	c := &calls{
		timeout: cfg.CallTimeout, metrics: m,
		agents: make(chan struct{}, cfg.MaxInFlight), callers: make(chan struct{}, cfg.MaxInFlight),
		log: logr.FromSlogHandler(discreet{cfg.Log.Handler()}),
	}
	var errs [4]error
	c.review, errs[0] = client("/apis", authenticationv1.SchemeGroupVersion, relays)
	c.whoami, errs[1] = client("/apis", authenticationv1.SchemeGroupVersion, callers)
	c.may, errs[2] = client("/apis", authorizationv1.SchemeGroupVersion, callers)
	c.core, errs[3] = client("/api", corev1.SchemeGroupVersion, callers)
	return c, errors.Join(errs[:]...)
}

// discreet is a log for client-go, which writes whole requests into it, tokens
// under review too, at levels that an operator can ask for by number.
type discreet struct{ slog.Handler }

// Enabled stops below debug.
func (d discreet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelDebug && d.Handler.Enabled(ctx, l)
}

// WithAttrs implements slog.Handler.
func (d discreet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return discreet{d.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (d discreet) WithGroup(name string) slog.Handler { return discreet{d.Handler.WithGroup(name)} }

// tokenReview asks as the relay.
func (c *calls) tokenReview(ctx context.Context, token, audience string) (*authenticationv1.TokenReview, error) {
	out := &authenticationv1.TokenReview{}
	in := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}}}
	err := c.do(ctx, "tokenreview", c.agents, c.review.Post().Resource("tokenreviews").Body(in), out)
	return out, err
}

// selfSubjectReview asks who is.
func (c *calls) selfSubjectReview(ctx context.Context, who *credential) (*authenticationv1.SelfSubjectReview, error) {
	out := &authenticationv1.SelfSubjectReview{}
	err := c.do(withCredential(ctx, who), "selfsubjectreview", c.callers,
		c.whoami.Post().Resource("selfsubjectreviews").Body(&authenticationv1.SelfSubjectReview{}), out)
	return out, err
}

// selfSubjectAccessReview asks whether who may.
func (c *calls) selfSubjectAccessReview(
	ctx context.Context, who *credential, what *authorizationv1.ResourceAttributes,
) (*authorizationv1.SelfSubjectAccessReview, error) {
	out := &authorizationv1.SelfSubjectAccessReview{}
	in := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: what}}
	err := c.do(withCredential(ctx, who), "selfsubjectaccessreview", c.callers,
		c.may.Post().Resource("selfsubjectaccessreviews").Body(in), out)
	return out, err
}

// pod reads a pod as who.
func (c *calls) pod(ctx context.Context, who *credential, namespace, name string) (*corev1.Pod, error) {
	out := &corev1.Pod{}
	err := c.do(withCredential(ctx, who), "pod", c.callers,
		c.core.Get().Namespace(namespace).Resource("pods").Name(name), out)
	if err == nil && (out.Name != name || out.Namespace != namespace || out.UID == "") {
		err = &stream.Error{Code: stream.Unreachable, Text: "the API server answered with something that is not the pod; try again"}
	}
	return out, err
}

// do asks once: who waits decides whether to ask again. Waiting for a place
// counts as waiting for the answer.
func (c *calls) do(parent context.Context, name string, places chan struct{}, r *rest.Request, into runtime.Object) error {
	// client-go logs to the logger of the context.
	ctx, cancel := context.WithTimeout(logr.NewContext(parent, c.log), c.timeout)
	defer cancel()
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	case <-ctx.Done():
		if err := parent.Err(); err != nil {
			return err
		}
		return &stream.Error{Code: stream.Overloaded, Text: "the relay waits for too many answers of the API server; try again later"}
	}
	began := time.Now()
	err := r.MaxRetries(0).Do(ctx).Into(into)
	if err != nil && parent.Err() != nil {
		err = parent.Err()
	}
	err = fault(err)
	c.metrics.asked(name, err, time.Since(began))
	return err
}
