package netns_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
)

// BenchmarkDial compares a dial into a namespace with an ordinary one at home: dial, one byte there
// and back, abort.
func BenchmarkDial(b *testing.B) {
	b.Run("netns", func(b *testing.B) {
		ns := netnstest.New(b)
		l := ns.Listen("tcp4", "127.0.0.1:0")
		h, err := netns.Open(ns.Path())
		if err != nil {
			b.Fatal(err)
		}
		defer h.Close()
		var d netns.Dialer
		benchDial(b, l, func() (io.ReadWriter, func(), error) {
			c, err := d.Dial(context.Background(), h, port(l))
			if err != nil {
				return nil, nil, err
			}
			return c, func() { abort(c) }, nil
		})
	})
	b.Run("net", func(b *testing.B) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		benchDial(b, l, func() (io.ReadWriter, func(), error) {
			c, err := net.Dial("tcp4", l.Addr().String())
			if err != nil {
				return nil, nil, err
			}
			return c, func() { c.(*net.TCPConn).SetLinger(0); c.Close() }, nil
		})
	})
}

func benchDial(b *testing.B, l net.Listener, dial func() (io.ReadWriter, func(), error)) {
	serve(b, l, func(c net.Conn) { io.Copy(c, c) })
	one := func(b *testing.B, p []byte) {
		c, abort, err := dial()
		if err != nil {
			b.Error(err)
			return
		}
		if _, err := c.Write(p); err != nil {
			b.Error(err)
		}
		if _, err := io.ReadFull(c, p); err != nil {
			b.Error(err)
		}
		abort()
	}
	b.Run("sequential", func(b *testing.B) {
		defer reportCPU(b, cpuTime())
		p := make([]byte, 1)
		for b.Loop() {
			one(b, p)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		defer reportCPU(b, cpuTime())
		b.SetParallelism(32 / runtime.GOMAXPROCS(0))
		b.RunParallel(func(pb *testing.PB) {
			p := make([]byte, 1)
			for pb.Next() {
				one(b, p)
			}
		})
	})
}

// reportCPU adds the processor time of both ends, which says more than the clock on a busy machine.
func reportCPU(b *testing.B, before time.Duration) {
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

func cpuTime() time.Duration {
	var r unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
