package stream

import (
	"context"
	"errors"
	"os"
	"strconv"
)

// Code says why a stream or a session was refused or aborted. Codes cross the
// wire: the list only grows, a number is never reused, and an unknown number is
// kept as it is.
type Code uint16

// Codes. PROTOCOL.md says who sends each and what a user should do about it.
const (
	OK              Code = 0
	NotListening    Code = 1
	PodNotFound     Code = 2
	WrongNode       Code = 3
	NamespaceGone   Code = 4
	Policy          Code = 5
	Unauthenticated Code = 6
	Forbidden       Code = 7
	AgentOffline    Code = 8
	Overloaded      Code = 9
	Timeout         Code = 10
	Internal        Code = 11
	Unsupported     Code = 12
	Malformed       Code = 13
	PodReset        Code = 14
	Canceled        Code = 15
	GoingAway       Code = 16
	Unreachable     Code = 17
	NameTaken       Code = 18
	Stopped         Code = 19
)

// String returns the stable kebab-case name used in logs, metrics and JSON;
// "code-N" for a number this version does not know.
func (c Code) String() string {
	names := [...]string{
		OK:              "ok",
		NotListening:    "not-listening",
		PodNotFound:     "pod-not-found",
		WrongNode:       "wrong-node",
		NamespaceGone:   "namespace-gone",
		Policy:          "policy",
		Unauthenticated: "unauthenticated",
		Forbidden:       "forbidden",
		AgentOffline:    "agent-offline",
		Overloaded:      "overloaded",
		Timeout:         "timeout",
		Internal:        "internal",
		Unsupported:     "unsupported",
		Malformed:       "malformed",
		PodReset:        "pod-reset",
		Canceled:        "canceled",
		GoingAway:       "going-away",
		Unreachable:     "unreachable",
		NameTaken:       "name-taken",
		Stopped:         "stopped",
	}
	if int(c) < len(names) {
		return names[c]
	}
	return "code-" + strconv.Itoa(int(c))
}

// Known tells whether c has a name here. A peer may send any number; who counts
// by code must not count them all.
func (c Code) Known() bool { return c <= Stopped }

// Error is an error that crossed the wire or is about to. What survives the
// crossing is the code and up to MaxText bytes of text; the chain of causes
// does not.
type Error struct {
	Code Code
	Text string // one line for people, may be empty; safe for a terminal when it was read from the wire
}

// Error returns the text, or the name of the code when there is none.
func (e *Error) Error() string {
	if e.Text != "" {
		return e.Text
	}
	return e.Code.String()
}

// Is makes errors.Is(err, &Error{Code: c}) a question about the code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t != nil && e != nil && t.Code == e.Code
}

// CodeOf returns the code to send, log and count for err: OK for nil, the code of
// the first *Error in the chain, Timeout or Canceled for what contexts and
// deadlines leave behind, Internal for everything else. It is OK for nil only.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	var e *Error
	switch {
	case errors.As(err, &e) && e != nil && e.Code != OK:
		return e.Code
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}

// TextOf returns what a peer may be told of err beside CodeOf: the text of the
// coded part, so that addresses and inner workings stay here. Of an internal
// fault that is nothing.
func TextOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e != nil && e.Code == CodeOf(err) && e.Code != Internal {
		return e.Text
	}
	return ""
}
