//go:build linux

package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// echo serves connections of ln until it is closed, answering each with what it sent.
func echo(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		io.Copy(conn, conn)
		conn.Close()
	}
}

// startEcho listens in s and echoes until the test ends.
func startEcho(t *testing.T, s *Namespace, address string) netip.AddrPort {
	t.Helper()
	ln, err := s.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); echo(ln) }()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// talk sends text from s to address and wants it back.
func talk(t *testing.T, s *Namespace, address, text string) {
	t.Helper()
	conn, err := s.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, text)
	conn.CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != text {
		t.Fatalf("echo of %q is %q, %v", text, got, err)
	}
}

func TestHostsReachEachOther(t *testing.T) {
	n := ForTest(t, "left", "right")
	left, right := n.Host("left"), n.Host("right")
	at := startEcho(t, right.Namespace, "0.0.0.0:7000")
	if at.Port() != 7000 {
		t.Fatalf("listening on %v", at)
	}
	talk(t, left.Namespace, right.Addr().String()+":7000", "from left")
	talk(t, right.Namespace, "127.0.0.1:7000", "from right itself")
	if _, err := left.Dial(t.Context(), "127.0.0.1:7000"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("left has a loopback of its own, dial gave %v", err)
	}
	if err := right.Unplug(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var timeout net.Error
	if _, err := left.Dial(ctx, right.Addr().String()+":7000"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("dial to an unplugged host: %v", err)
	}
	if err := right.Plug(t.Context()); err != nil {
		t.Fatal(err)
	}
	talk(t, left.Namespace, right.Addr().String()+":7000", "plugged again")
}

func TestTwoNetworksDoNotMeet(t *testing.T) {
	a := ForTest(t, "x")
	b, err := New(t.Context(), Config{Hosts: []string{"x", "y"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	startEcho(t, b.Host("x").Namespace, "0.0.0.0:7000")
	talk(t, b.Host("y").Namespace, b.Host("x").Addr().String()+":7000", "same network")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if conn, err := a.Host("x").Dial(ctx, b.Host("x").Addr().String()+":7000"); err == nil {
		conn.Close()
		t.Error("hosts of two networks can reach each other")
	}
}

func TestPodLife(t *testing.T) {
	n := ForTest(t, "one", "two")
	one, two := n.Host("one"), n.Host("two")
	pod, err := one.Pod(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	other, err := two.Pod(t.Context(), "web") // another host has names of its own
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Pod(t.Context(), "web"); err == nil {
		t.Error("a second pod took the same name")
	}
	startEcho(t, pod.Namespace, "0.0.0.0:80")
	talk(t, pod.Namespace, "[::ffff:127.0.0.1]:80", "inside")
	talk(t, one.Namespace, pod.Addr().String()+":80", "from its host")
	talk(t, two.Namespace, pod.Addr().String()+":80", "from another host")
	talk(t, other.Namespace, pod.Addr().String()+":80", "from another pod")

	var before, after syscall.Stat_t
	syscall.Stat(pod.NetNS(), &before)
	p, err := pod.Start(t.Context(), "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pod.Delete(), pod.Delete()); err != nil {
		t.Fatal(err)
	}
	if p.ExitCode() != -1 {
		t.Error("the pod's process outlived the pod")
	}
	if names, _ := os.ReadDir(one.NetnsDir()); len(names) != 0 {
		t.Errorf("namespace directory still has %v", names)
	}
	again, err := one.Pod(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	syscall.Stat(again.NetNS(), &after)
	if before.Ino == after.Ino {
		t.Error("the new pod has the old namespace")
	}
	if again.Addr() != pod.Addr() {
		t.Errorf("the free address %v was not used again, got %v", pod.Addr(), again.Addr())
	}
	if _, err := again.Dial(t.Context(), "127.0.0.1:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial in the new pod: %v", err)
	}
}

func TestLoopbackOfBothFamilies(t *testing.T) {
	n := ForTest(t, "h")
	pod, err := n.Host("h").Pod(t.Context(), "six")
	if err != nil {
		t.Fatal(err)
	}
	startEcho(t, pod.Namespace, "[::1]:80")
	talk(t, pod.Namespace, "[::1]:80", "over IPv6")
}

func TestCloseLeavesNothing(t *testing.T) {
	RequireRoot(t)
	n, err := New(t.Context(), Config{Hosts: []string{"h"}})
	if err != nil {
		t.Fatal(err)
	}
	h := n.Host("h")
	if _, err := h.Pod(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	stubborn, err := h.Start(t.Context(), "sh", "-c", "sleep 60 & echo child $!; wait")
	if err != nil {
		t.Fatal(err)
	}
	child, err := stubborn.WaitLine(regexp.MustCompile(`^child (\d+)$`), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.Close(), n.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("work directory: %v", err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), n.Dir()) {
		t.Error("a mount is left")
	}
	if state, err := os.ReadFile(filepath.Join("/proc", child[1], "stat")); err == nil && !strings.Contains(string(state), ") Z ") {
		t.Errorf("a child process is left: %s", state)
	}
	if _, err := h.Start(t.Context(), "true"); err == nil {
		t.Error("a closed network started a process")
	}
}

func TestNewRefusesBadNames(t *testing.T) {
	RequireRoot(t)
	for _, names := range [][]string{{"a", "a"}, {""}, {"../x"}, {"bridge"}, make([]string, maxHosts+1)} {
		if n, err := New(t.Context(), Config{Hosts: names}); err == nil {
			n.Close()
			t.Errorf("made a network of %d hosts named %q", len(names), names[0])
		}
	}
}
