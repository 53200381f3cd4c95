// Package kube runs the relay's rooms for Kubernetes against a real API server.
package kube
