//go:build linux

package broker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// childSocket in the environment makes a process of this test a broker.
const childSocket = "CULVERT_TEST_BROKER"

// BenchmarkConnect opens connections into a pod in a namespace of its own: in this
// process, and through a broker in another one. Processor time is that of both.
func BenchmarkConnect(b *testing.B) {
	ns := netnstest.New(b)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepting.Go(func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	b.Cleanup(func() { l.Close(); accepting.Wait() })
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	local := &reach.Local{Source: sourceOf(ns.Path()), Dialer: &reach.NetnsDialer{}}
	for _, parallel := range []int{1, 16} {
		b.Run(fmt.Sprintf("itself/%d", parallel), func(b *testing.B) { open(b, local, port, parallel, 0) })
		b.Run(fmt.Sprintf("broker/%d", parallel), func(b *testing.B) {
			path, pid := child(b, ns.Path())
			open(b, connected(b, path), port, parallel, pid)
		})
	}
}

func sourceOf(netns string) *reachtest.Pods {
	pod := web()
	pod.NetNS = netns
	return reachtest.NewPods(pod)
}

// open opens and resets connections.
func open(b *testing.B, to reach.Pods, port uint16, parallel, pid int) {
	before := used(b, pid)
	b.ResetTimer()
	var turn sync.WaitGroup
	next := make(chan struct{}, b.N)
	for range b.N {
		next <- struct{}{}
	}
	close(next)
	for range parallel {
		turn.Go(func() {
			for range next {
				_, conn, err := to.Connect(b.Context(), "uid-1", port)
				if err != nil {
					b.Error(err)
					return
				}
				_ = conn.Reset(nil)
			}
		})
	}
	turn.Wait()
	b.StopTimer()
	b.ReportMetric(float64((used(b, pid)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// used is the processor time of this process and another one, of the pod's side too.
func used(b *testing.B, pid int) time.Duration {
	b.Helper()
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		b.Fatal(err)
	}
	all := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	if pid == 0 {
		return all
	}
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, ticks := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(ticks)
		if err != nil {
			b.Fatal(err)
		}
		all += time.Duration(n) * 10 * time.Millisecond
	}
	return all
}

// child starts a broker in a process of its own.
func child(b *testing.B, netns string) (path string, pid int) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "broker.sock")
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), childSocket+"="+path, childSocket+"_NETNS="+netns)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "ready") {
			return path, cmd.Process.Pid
		}
	}
	b.Fatal("the child is not ready")
	return "", 0
}

// runChild is the broker of a benchmark, in a process of its own. It lives as long as
// its standard input.
func runChild(path string) error {
	s, err := New(Config{
		Pods: &reach.Local{Source: sourceOf(os.Getenv(childSocket + "_NETNS")), Dialer: &reach.NetnsDialer{}}, UID: os.Geteuid(),
	})
	if err != nil {
		return err
	}
	l, err := Listen(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	})
	fmt.Println("ready")
	defer waiting.Wait()
	return s.Serve(ctx, l)
}
