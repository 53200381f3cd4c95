package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// What follows puts the errors of the API server into the words of kubectl, by
// which programs and people know them.

// serverReason returns the whole line for an error that a server gave, if it is
// one.
func serverReason(err error, advice client.Advice) (text string, known bool) {
	var status apierrors.APIStatus
	if errors.As(err, &status) && !isStream(err) {
		s := status.Status()
		switch {
		case s.Reason == metav1.StatusReasonUnauthorized:
			return fmt.Sprintf("error: You must be logged in to the server (%s)", s.Message), true
		case s.Reason != "":
			return fmt.Sprintf("Error from server (%s): %s", s.Reason, s.Message), true
		}
		return "Error from server: " + s.Message, true
	}
	if remote, ok := asStream(err); ok && advice.Cluster && remote.Code == stream.Forbidden {
		return "Error from server (Forbidden): " + remote.Error(), true
	}
	return unreachable(err)
}

// unreachable is for an API server that does not answer at all.
func unreachable(err error) (text string, known bool) {
	var request *url.Error
	if !errors.As(err, &request) {
		return "", false
	}
	host := request.URL
	if u, err := url.Parse(request.URL); err == nil {
		host = u.Host
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" && op.Err != nil && op.Addr != nil {
		if isRefused(err) {
			return fmt.Sprintf("The connection to the server %s was refused - did you specify the right host or port?", host), true
		}
	}
	return fmt.Sprintf("Unable to connect to the server: %v", request.Err), true
}

// kubeReason is an error of the API server within a line.
func kubeReason(err error) string {
	if text, known := serverReason(err, client.Advice{}); known {
		return text
	}
	return err.Error()
}

// isKube tells whether an error came on the way to the API server.
func isKube(err error) bool {
	_, known := serverReason(err, client.Advice{})
	return known
}

// kubeHint returns what to do about an error of the API server.
func kubeHint(err error, advice client.Advice) string {
	switch {
	case apierrors.IsForbidden(err):
		return "see what is missing, and the rule that grants it, with: " + advice.Program + " doctor"
	case apierrors.IsUnauthorized(err):
		return "log in again, and compare: kubectl auth whoami"
	case apierrors.IsNotFound(err):
		return "check the name and --namespace"
	case errors.As(err, new(apierrors.APIStatus)):
		return ""
	}
	return "check the kubeconfig's server, --context and the network; compare: kubectl version"
}

// isRefused knows the number of Windows too, which its syscall package does not
// map.
func isRefused(err error) bool {
	const wsaeconnrefused = syscall.Errno(10061)
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaeconnrefused)
}
