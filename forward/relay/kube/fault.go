package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// maxMessage bounds what of an answer of the API server is passed on, in bytes.
const maxMessage = 512

// fault turns what client-go says into what a caller may be told. What is not an
// answer (the server is away, busy, or not what it should be) is never a denial.
func fault(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, new(*stream.Error)) {
		return err
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		told := answered(err, status)
		if told.Text == status.Status().Message {
			return told
		}
		return fmt.Errorf("%w: %w", told, err)
	}
	if errors.Is(err, errNoCredential) || errors.Is(err, errNotTheAPI) || errors.Is(err, errNotTheRelays) {
		return fmt.Errorf("%w: %w", &stream.Error{Code: stream.Internal}, err)
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: %w", &stream.Error{Code: stream.Timeout, Text: "the API server does not answer the relay; try again"}, err)
	}
	return fmt.Errorf("%w: %w", &stream.Error{Code: stream.Unreachable, Text: "the relay cannot ask the API server; try again"}, err)
}

// answered is for what the API server itself answered.
func answered(err error, status apierrors.APIStatus) *stream.Error {
	said := clip(status.Status().Message)
	switch code := status.Status().Code; {
	case code == http.StatusUnauthorized:
		return &stream.Error{Code: stream.Unauthenticated, Text: "the API server does not take the credential (any more): log in again"}
	case code == http.StatusForbidden:
		return &stream.Error{Code: stream.Forbidden, Text: said}
	case code == http.StatusNotFound && apierrors.IsNotFound(err):
		return &stream.Error{Code: stream.PodNotFound, Text: said}
	case code == http.StatusTooManyRequests:
		return &stream.Error{Code: stream.Overloaded, Text: "the API server is busy; try again later"}
	case code == http.StatusGatewayTimeout:
		return &stream.Error{Code: stream.Timeout, Text: "the API server does not answer the relay; try again"}
	default:
		return &stream.Error{Code: stream.Unreachable, Text: fmt.Sprintf("the API server answered the relay with status %d; try again", code)}
	}
}

// clip bounds what others wrote. What of it is unsafe to print is taken care of
// where it is sent.
func clip(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage]
	}
	return s
}
