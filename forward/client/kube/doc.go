// Package kube is what the client knows of Kubernetes: it asks the API server,
// with the user's own credential, which pods stand behind a target and which of
// them to use ([Follower]), finds the relay of a cluster ([Find]) and takes from
// a kubeconfig what to show it ([Credential]).
//
// It asks for as little as it can: get on pods for a pod, get on the object and
// list on pods for everything else; watch where it is allowed.
package kube

import (
	"net/http"

	"k8s.io/client-go/kubernetes/typed/apps/v1"
	authenticationv1 "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationv1 "k8s.io/client-go/kubernetes/typed/authorization/v1"
	batchv1 "k8s.io/client-go/kubernetes/typed/batch/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// API is the part of the API server that the client asks.
type API struct {
	// Core has pods, services, namespaces and the relay's ConfigMap.
	Core corev1.CoreV1Interface
	// Apps and Batch have what makes pods.
	Apps  v1.AppsV1Interface
	Batch batchv1.BatchV1Interface
	// Authentication and Authorization say who the user is and what he may.
	Authentication authenticationv1.AuthenticationV1Interface
	Authorization  authorizationv1.AuthorizationV1Interface

	client *http.Client
}

// Close closes the connections that nobody uses.
func (a *API) Close() { a.client.CloseIdleConnections() }

// NewAPI returns the API that cfg leads to. It connects to nothing yet. Who is
// done with it before the process ends calls Close.
func NewAPI(cfg *rest.Config) (*API, error) {
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	return newAPI(cfg, hc)
}

// newAPI shares one client, and with it its connections.
func newAPI(cfg *rest.Config, hc *http.Client) (*API, error) {
	a := API{client: hc}
	var err error
	if a.Core, err = corev1.NewForConfigAndClient(cfg, hc); err != nil {
		return nil, err
	}
	if a.Apps, err = v1.NewForConfigAndClient(cfg, hc); err != nil {
		return nil, err
	}
	if a.Batch, err = batchv1.NewForConfigAndClient(cfg, hc); err != nil {
		return nil, err
	}
	if a.Authentication, err = authenticationv1.NewForConfigAndClient(cfg, hc); err != nil {
		return nil, err
	}
	if a.Authorization, err = authorizationv1.NewForConfigAndClient(cfg, hc); err != nil {
		return nil, err
	}
	return &a, nil
}
