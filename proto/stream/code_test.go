package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"testing"
)

// The numbers and names are on the wire, in logs and in dashboards: this table is
// meant to be appended to and never edited.
func TestCodesAreForEver(t *testing.T) {
	names := []string{"ok", "not-listening", "pod-not-found", "wrong-node", "namespace-gone", "policy",
		"unauthenticated", "forbidden", "agent-offline", "overloaded", "timeout", "internal", "unsupported",
		"malformed", "pod-reset", "canceled", "going-away", "unreachable", "name-taken", "stopped"}
	for n, name := range names {
		if got := Code(n).String(); got != name {
			t.Errorf("code %d is %q, want %q", n, got, name)
		}
	}
	if Stopped != 19 || len(names) != 20 {
		t.Errorf("last code is %d, %d are tested", Stopped, len(names))
	}
	if got := Code(20).String(); got != "code-20" {
		t.Errorf("unknown code is %q", got)
	}
	if got := Code(65535).String(); got != "code-65535" {
		t.Errorf("unknown code is %q", got)
	}
}

func TestCodeOf(t *testing.T) {
	var typedNil *Error
	for name, tc := range map[string]struct {
		err  error
		want Code
	}{
		"nil":              {nil, OK},
		"error":            {&Error{Code: Policy}, Policy},
		"wrapped":          {fmt.Errorf("dial: %w", &Error{Code: NotListening, Text: "x"}), NotListening},
		"code from future": {&Error{Code: 999}, 999},
		"joined":           {errors.Join(io.EOF, &Error{Code: WrongNode}), WrongNode},
		"error beats ctx":  {errors.Join(context.Canceled, &Error{Code: GoingAway}), GoingAway},
		"context deadline": {fmt.Errorf("x: %w", context.DeadlineExceeded), Timeout},
		"i/o deadline":     {&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, Timeout},
		"canceled":         {fmt.Errorf("x: %w", context.Canceled), Canceled},
		"anything else":    {io.ErrUnexpectedEOF, Internal},
		"never OK":         {&Error{Code: OK, Text: "but an error"}, Internal},
		"typed nil":        {typedNil, Internal},
	} {
		t.Run(name, func(t *testing.T) {
			if got := CodeOf(tc.err); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

func TestErrorIs(t *testing.T) {
	err := fmt.Errorf("open stream: %w", &Error{Code: AgentOffline, Text: "node-7 has no tunnel"})
	if !errors.Is(err, &Error{Code: AgentOffline}) {
		t.Error("the same code with another text is not equal")
	}
	for _, target := range []error{&Error{Code: Policy}, io.EOF, (*Error)(nil)} {
		if errors.Is(err, target) {
			t.Errorf("equal to %#v", target)
		}
	}
	if got := (&Error{Code: AgentOffline}).Error(); got != "agent-offline" {
		t.Errorf("without a text: %q", got)
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"forward": KindForward, "control": KindControl, "kind-7": Kind(7),
		"tls": CredentialTLS, "token": CredentialToken, "join": CredentialJoin, "credential-7": CredentialKind(7),
		"DATA": FrameData, "FIN": FrameFin, "RESET": FrameReset, "frame-7": FrameType(7),
		"000102030405060708090a0b0c0d0e0f": ID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	} {
		if got.String() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	a, b := NewID(), NewID()
	if a == b || !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(a.String()) {
		t.Errorf("ids %s and %s", a, b)
	}
}
