package keeper

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// maxAnswer bounds an answer of the API server. Objects are kept below 1.5 MiB by
// etcd; the data of a Secret grows by a third on the way.
const maxAnswer = 4 << 20

// The resources that are asked for; there are no others.
const (
	secrets    = "secrets"
	configMaps = "configmaps"
)

// objects reads and changes Secrets and ConfigMaps by name. It knows the core
// types only: the clients of client-go link the types of every API there is.
type objects struct {
	client *rest.RESTClient
	http   *http.Client
}

func newObjects(cfg *Config) (*objects, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	rc := &rest.Config{
		Host:            cfg.APIServer,
		APIPath:         "/api",
		TLSClientConfig: rest.TLSClientConfig{CAFile: cfg.CAFile},
		BearerTokenFile: cfg.TokenFile,
		UserAgent:       "culvert-relay",
		QPS:             -1, // the keeper asks a few times a minute
		Timeout:         cfg.CallTimeout,
		WarningHandler:  rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{
			GroupVersion:         &corev1.SchemeGroupVersion,
			NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
			ContentType:          runtime.ContentTypeJSON,
		},
	}
	// The way to the API server is the configuration's to say, not the environment's.
	rc.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } //nolint:nilnil // that means none
	if cfg.DialAPI != nil {
		rc.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return cfg.DialAPI(ctx) }
	}
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper { return &bounded{next} })
	if cfg.wrap != nil {
		rc.Wrap(cfg.wrap)
	}
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, err
	}
	// client-go would show the token to whomever it is sent on to.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client, err := rest.RESTClientForConfigAndClient(rc, hc)
	if err != nil {
		return nil, err
	}
	return &objects{client: client, http: hc}, nil
}

// close gives back idle connections.
func (o *objects) close() { utilnet.CloseIdleConnectionsFor(o.http.Transport) }

// get reads an object into into.
func (o *objects) get(ctx context.Context, resource string, n Name, into runtime.Object) error {
	err := o.client.Get().MaxRetries(0).Resource(resource).Namespace(n.Namespace).Name(n.Name).Do(ctx).Into(into)
	return explain("read", resource, n, err)
}

// update writes an object that was read before and takes the answer into it. If
// the object has changed since, the error is a conflict.
func (o *objects) update(ctx context.Context, resource string, n Name, object runtime.Object) error {
	err := o.client.Put().MaxRetries(0).Resource(resource).Namespace(n.Namespace).Name(n.Name).Body(object).Do(ctx).Into(object)
	return explain("write", resource, n, err)
}

func explain(verb, resource string, n Name, err error) error {
	if err == nil {
		return nil
	}
	what := "Secret"
	hint := "kubectl create secret generic --namespace " + n.Namespace + " " + n.Name
	if resource == configMaps {
		what = "ConfigMap"
		hint = "kubectl create configmap --namespace " + n.Namespace + " " + n.Name
	}
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s %s %s: %w; make it, empty, as the chart does: %s", verb, what, n, err, hint)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s %s %s: %w; give the relay's service account get and update on it", verb, what, n, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s %s %s: %w; the API server does not take the relay's token (--kube-token-file)", verb, what, n, err)
	}
	return fmt.Errorf("%s %s %s: %w", verb, what, n, err)
}

// bounded cuts answers that are longer than maxAnswer, which nothing that reads
// them takes for whole.
type bounded struct{ next http.RoundTripper }

// RoundTrip passes a request on.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// WrappedRoundTripper lets idle connections below be found.
func (b *bounded) WrappedRoundTripper() http.RoundTripper { return b.next }
