package main

// How culvert speaks. Everything a person reads follows these rules.
//
//   - Standard output carries what was asked for and nothing else, in the words
//     that programs parse. It may be sent to /dev/null.
//   - Standard error carries the rest, one line per message: "error: " when
//     something failed for good, "warning: " when it goes on by itself, no
//     prefix for plain news. After the prefix lower case, no full stop.
//   - What the API server says is in kubectl's words and begins as there: "Error
//     from server (REASON): ".
//   - An error that ends the program is followed by one line "hint: ..." with
//     what to do next, if that is known, or by where to find help if it was
//     called in a wrong way.
//   - A connection that fails is one line, hint included, and the program goes
//     on.
//   - Silence is success. No banner, no colours, no progress, no counting.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/culvert-k8s/culvert/forward/client"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
)

// voice writes whole lines to standard error, from any goroutine.
type voice struct {
	mu sync.Mutex
	w  io.Writer
	// advice words the hints. It is set before anything is done.
	advice client.Advice
}

func (v *voice) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.w.Write(p)
}

// say writes one line. Nobody is told when that fails: there is no other way.
func (v *voice) say(format string, args ...any) {
	_, _ = io.WriteString(v, line(format, args...))
}

// line makes one line that is safe for a terminal, whatever an error brings along.
func line(format string, args ...any) string {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	return strings.Map(printable, text) + "\n"
}

// printable replaces what a terminal would obey rather than show.
func printable(r rune) rune {
	if r == '\t' || unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// fail says why the program ends, and what to do next.
func (v *voice) fail(cmd *cobra.Command, err error) {
	if text, known := serverReason(err, v.advice); known {
		v.say("%s", text)
	} else {
		v.say("error: %s", reason(err))
	}
	var usage *usageError
	if errors.As(err, &usage) || isUnknownCommand(err) {
		v.say("See '%s -h' for help and examples", cmd.CommandPath())
		return
	}
	if h := hint(err, v.advice); h != "" {
		v.say("hint: %s", h)
	}
}

// usageError is a call that cannot mean anything.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// isUnknownCommand knows the one usage error that cobra makes by itself and
// that cannot be intercepted.
func isUnknownCommand(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command ")
}

// hintError adds what to do next to an error.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// targetError says which target an error is about, so that the hint can.
type targetError struct {
	err    error
	target client.Target
}

func (e *targetError) Error() string { return e.err.Error() }
func (e *targetError) Unwrap() error { return e.err }

func reason(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	// Cobra puts its suggestions on lines of their own.
	text, _, _ := strings.Cut(err.Error(), "\n\n")
	return text
}

// hint returns what to do next about err, empty if that is not known.
func hint(err error, advice client.Advice) string {
	var own *hintError
	var noRelay *noRelayError
	var verify *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var alert *net.OpError
	var noName *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, &own):
		return own.hint
	case errors.As(err, &noRelay):
		return noRelay.hint()
	case isStream(err):
		remote, _ := asStream(err)
		var t client.Target
		if about, ok := errors.AsType[*targetError](err); ok {
			t = about.target
		}
		return advice.Hint(remote.Code, t)
	case errors.Is(err, client.ErrNeedsKubernetes):
		return "name a pod and a number, or give a kubeconfig; list the pods with: " + advice.Program + " get pods"
	case isKube(err):
		return kubeHint(err, advice)
	case errors.As(err, &verify):
		return "check --relay-ca or --relay-ca-pin, and that the relay's certificate names the host in --relay"
	case errors.As(err, &noTLS), errors.Is(err, connect.ErrNotRelay):
		return "check the port in --relay; relays listen on 7443 unless told otherwise"
	case errors.As(err, &alert) && alert.Op == "remote error":
		return "the relay refused the TLS handshake; check --client-certificate and the port in --relay"
	case errors.As(err, &noName):
		return "check the host in --relay"
	case errors.Is(err, client.ErrOffline), isNetwork(err):
		return "check --relay, and that the relay is up and can be reached from here"
	}
	return ""
}

func isNetwork(err error) bool {
	var n net.Error
	return errors.As(err, &n)
}
