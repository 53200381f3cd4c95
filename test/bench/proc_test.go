//go:build linux

package main

import (
	"os"
	"testing"
)

func TestParseCPU(t *testing.T) {
	const stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 7 0 100 1000 200 18446744073709551615 0 0"
	if got, err := parseCPU([]byte(stat)); err != nil || got != 2 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "42", "42 (a) S 1", "42 (a) S 1 2 3 4 5 6 7 8 9 10 x y z"} {
		if got, err := parseCPU([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestParseBusy(t *testing.T) {
	if got, err := parseBusy([]byte("cpu  100 100 100 5000 900 50 25 25 70 0\ncpu0 1\n")); err != nil || got != 4 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpux 1 2 3 4 5 6 7 8 9", "cpu 1 2 3 x 5 6 7 8"} {
		if got, err := parseBusy([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	const status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t  512 kB\nThreads:\t7\n"
	if got, err := parseStatus([]byte(status), "VmRSS"); err != nil || got != 512*1024 {
		t.Errorf("%v, %v", got, err)
	}
	for _, line := range []string{"Threads", "VmSwap", ""} {
		if got, err := parseStatus([]byte(status), line); err == nil {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestThisProcess(t *testing.T) {
	p := family("me", os.Getpid())
	if got, err := p.cpu(); err != nil || got < 0 {
		t.Errorf("cpu: %v, %v", got, err)
	}
	if got, err := p.memory(); err != nil || got < mib {
		t.Errorf("memory: %v, %v", got, err)
	}
}
