//go:build linux

package lab

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// The clock of one process is changed, and that of nobody else.
func TestClock(t *testing.T) {
	n := ForTest(t, "h")
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	bin, err := Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := n.Host("h").Pod(ctx, "clock")
	if err != nil {
		t.Fatal(err)
	}
	p, err := pod.Start(ctx, bin.PodServer, "-http", "7000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitLine(regexp.MustCompile(`^ready$`), longEnough); err != nil {
		t.Fatal(err)
	}
	clock, err := p.Clock()
	if errors.Is(err, ErrNoClock) {
		t.Skipf("%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		if err := clock.Set(by, 0); err != nil {
			t.Fatal(err)
		}
		_, text, err := pod.HTTPGet(ctx, "http://127.0.0.1:7000/clock")
		if err != nil {
			t.Fatal(err)
		}
		told, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if off := time.Until(time.Unix(told, 0)) - by; off.Abs() > time.Minute {
			t.Errorf("set to %v, it tells a time that is off by %v", by, off)
		}
	}
}
