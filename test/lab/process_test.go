//go:build linux

package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const longEnough = 20 * time.Second

func TestProcessOutput(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	p, err := h.Start(t.Context(), "sh", "-c", "echo one; echo two >&2; printf three; read x < /dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := p.WaitLine(regexp.MustCompile(`^(t.)o$`), longEnough); err != nil || m[1] != "tw" {
		t.Errorf("match %q, %v", m, err)
	}
	if _, err := p.WaitLine(regexp.MustCompile("never"), time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a line that never comes: %v", err)
	}
	p.Kill()
	_, err = p.WaitLine(regexp.MustCompile("never"), longEnough)
	if !errors.Is(err, errNoMoreOutput) || !strings.Contains(err.Error(), "three") {
		t.Errorf("waiting after the end: %v", err)
	}
	if out, errs := p.Text(Stdout), p.Text(Stderr); out != "one\nthree\n" || errs != "two\n" {
		t.Errorf("out %q, err %q", out, errs)
	}
	if _, err := p.WaitLineFrom(p.Mark(), regexp.MustCompile("one"), longEnough); err == nil {
		t.Error("a line before the mark was found")
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestProcessEnds(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	canceled, cancel := context.WithCancel(t.Context())
	for _, test := range []struct {
		name, script string
		ctx          context.Context
		end          func(*Process) error
		code         int
	}{
		{"by itself", "exit 0", t.Context(), func(p *Process) error { return p.Wait(t.Context()) }, 0},
		{"with a code", "exit 7", t.Context(), func(p *Process) error { return p.Wait(t.Context()) }, 7},
		{"on SIGTERM", "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done", t.Context(),
			func(p *Process) error { return p.Stop(longEnough) }, 3},
		{"killed after grace", "trap '' TERM; echo up; while :; do sleep 0.01; done", t.Context(),
			func(p *Process) error { return p.Stop(time.Millisecond) }, -1},
		{"with the context", "echo up; exec sleep 60", canceled,
			func(p *Process) error { cancel(); return p.Wait(t.Context()) }, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := h.Start(test.ctx, "sh", "-c", test.script)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(test.script, "echo up") {
				if _, err := p.WaitLine(regexp.MustCompile("up"), longEnough); err != nil {
					t.Fatal(err)
				}
			}
			if err := test.end(p); (err == nil) != (test.code == 0) {
				t.Errorf("ended with %v", err)
			}
			if code := p.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
		})
	}
}

func TestRun(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	out, err := h.RunCommand(t.Context(), Command{
		Path: "sh", Args: []string{"-c", "cat; echo $WORD; ip -br address show eth0"},
		Env: []string{"WORD=hello"}, Stdin: strings.NewReader("typed\n"),
	})
	if err != nil || !strings.HasPrefix(out, "typed\nhello\n") || !strings.Contains(out, h.Addr().String()) {
		t.Errorf("output %q, %v", out, err)
	}
	var exit *exec.ExitError
	if _, err := h.Run(t.Context(), "sh", "-c", "echo broken >&2; exit 4"); !errors.As(err, &exit) ||
		exit.ExitCode() != 4 || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a failing program gave %v", err)
	}
	if _, err := h.Run(t.Context(), "no-such-program-anywhere"); err == nil {
		t.Error("a missing program ran")
	}
}

// FuzzLines checks that cutting a stream into lines loses no byte, however the
// stream arrives.
func FuzzLines(f *testing.F) {
	f.Add("a\nb\r\n\nc", 2)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		log, err := newOutputLog("")
		if err != nil {
			t.Fatal(err)
		}
		w := log.writer(Stdout)
		cut = min(max(cut, 0), len(text))
		w.Write([]byte(text[:cut]))
		w.Write([]byte(text[cut:]))
		w.flush()
		want := strings.ReplaceAll(text, "\r\n", "\n")
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if got := log.text(Stdout); len(text) < maxLineLen && got != want {
			t.Errorf("%q came out as %q", text, got)
		}
	})
}
