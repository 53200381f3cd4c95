package forward_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/culvert-k8s/culvert/forward"
)

// joinFunc joins two TCP connections and returns after both directions ended.
type joinFunc func(a, b *net.TCPConn)

// joiners are the ways to compare. ioCopy is what is commonly written; ioCopyPlain is the same without splice(2), which
// no connection with frames can use.
func joiners() map[string]joinFunc {
	joiner := new(forward.Joiner)
	copyWith := func(cp func(dst, src *net.TCPConn)) joinFunc {
		return func(a, b *net.TCPConn) {
			var wg sync.WaitGroup
			wg.Go(func() { cp(a, b); _ = a.CloseWrite() })
			cp(b, a)
			_ = b.CloseWrite()
			wg.Wait()
			a.Close()
			b.Close()
		}
	}
	return map[string]joinFunc{
		"join":   func(a, b *net.TCPConn) { _, _ = joiner.Join(context.Background(), forward.TCP(a), forward.TCP(b), nil) },
		"ioCopy": copyWith(func(dst, src *net.TCPConn) { _, _ = io.Copy(dst, src) }),
		"ioCopyPlain": copyWith(func(dst, src *net.TCPConn) {
			_, _ = io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src})
		}),
	}
}

// startTCP runs join between two connections and returns the far ends.
func startTCP(b *testing.B, join joinFunc, wg *sync.WaitGroup) (x, y *net.TCPConn) {
	b.Helper()
	x, a, err := tcpPair()
	if err != nil {
		b.Fatal(err)
	}
	y, c, err := tcpPair()
	if err != nil {
		b.Fatal(err)
	}
	wg.Go(func() { join(a, c) })
	return x, y
}

func BenchmarkThroughput(b *testing.B) {
	for name, join := range joiners() {
		b.Run(name, func(b *testing.B) {
			var wg sync.WaitGroup
			x, y := startTCP(b, join, &wg)
			p := make([]byte, 64<<10)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			wg.Go(func() {
				_, _ = io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{y})
				y.Close()
			})
			for b.Loop() {
				if _, err := x.Write(p); err != nil {
					b.Fatal(err)
				}
			}
			x.CloseWrite()
			_, _ = io.Copy(io.Discard, x)
			x.Close()
			wg.Wait()
		})
	}
}

// BenchmarkPingPong is one byte there and back: the price of the way, and of waiting without a buffer.
func BenchmarkPingPong(b *testing.B) {
	for name, join := range joiners() {
		b.Run(name, func(b *testing.B) {
			var wg sync.WaitGroup
			x, y := startTCP(b, join, &wg)
			b.ReportAllocs()
			wg.Go(func() {
				p := make([]byte, 1)
				for {
					if _, err := y.Read(p); err != nil {
						break
					}
					_, _ = y.Write(p)
				}
				y.Close()
			})
			p := make([]byte, 1)
			for b.Loop() {
				_, _ = x.Write(p)
				if _, err := x.Read(p); err != nil {
					b.Fatal(err)
				}
			}
			x.CloseWrite()
			_, _ = io.Copy(io.Discard, x)
			x.Close()
			wg.Wait()
		})
	}
}

// BenchmarkConnection is one short exchange on a fresh pair of connections; the sockets themselves cost the same everywhere.
func BenchmarkConnection(b *testing.B) {
	for name, join := range joiners() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			p := make([]byte, 100)
			for b.Loop() {
				var wg sync.WaitGroup
				x, y := startTCP(b, join, &wg)
				_, _ = x.Write(p)
				_, _ = io.ReadFull(y, p)
				_, _ = y.Write(p)
				_, _ = io.ReadFull(x, p)
				x.CloseWrite()
				y.CloseWrite()
				wg.Wait()
				x.Close()
				y.Close()
			}
		})
	}
}

// BenchmarkIdle reports the heap that a joined and idle pair holds after it has carried something.
func BenchmarkIdle(b *testing.B) {
	const pairs = 200
	for name, join := range joiners() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var wg sync.WaitGroup
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				ends := make([]*net.TCPConn, 0, 2*pairs)
				p := make([]byte, 1)
				for range pairs {
					x, y := startTCP(b, join, &wg)
					ends = append(ends, x, y)
					_, _ = x.Write(p)
					_, _ = io.ReadFull(y, p)
				}
				runtime.GC()
				runtime.GC() // the second one empties the pool
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/pairs, "heap-B/pair")
				for _, c := range ends {
					c.CloseWrite()
				}
				for _, c := range ends {
					c.Close()
				}
				wg.Wait()
			}
		})
	}
}
