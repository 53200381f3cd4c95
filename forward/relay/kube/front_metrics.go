package kube

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
)

// What kind of request came to the front.
const (
	kindPlain       = "plain"
	kindUpgrade     = "upgrade"
	kindPortForward = "portforward"
)

// frontRequest counts a request to the front that has ended, by the class of its
// status.
func (m *metrics) frontRequest(kind, outcome string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`culvert_relay_front_requests_total{kind=%q,code=%q}`, kind, outcome)).Inc()
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Hijack implements http.Hijacker. A connection is taken over for nothing but an
// upgrade.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil && r.status == 0 {
		r.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// outcome is the class of the status.
func (r *recorder) outcome() string {
	switch class := r.status / 100; {
	case r.status == 0:
		return "none"
	case class >= 1 && class <= 5:
		return fmt.Sprintf("%dxx", class)
	}
	return "odd"
}
