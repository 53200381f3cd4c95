//go:build unix

package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"
)

// lane is one stream, or what is compared with it.
type lane interface {
	io.ReadWriteCloser
}

// road makes lanes; the far end of each is given to serve.
type road struct {
	open  func() (lane, error)
	serve func(handle func(lane))
}

// roads are what is compared: this package, yamux as it comes over TLS, and
// TLS without streams, where every lane is a connection of its own.
var roads = []struct {
	name string
	make func(b *testing.B) road
}{
	{"tunnel", func(b *testing.B) road {
		client, server := tlsSessions(b, Config{})
		return road{
			open: func() (lane, error) { return client.Open(context.Background()) },
			serve: func(handle func(lane)) {
				go server.Serve(context.Background(), func(st *Stream) { handle(st) })
			},
		}
	}},
	{"yamux", func(b *testing.B) road {
		x, y := tlsConns(b)
		cfg := yamux.DefaultConfig()
		cfg.LogOutput = io.Discard
		client, err := yamux.Client(x, cfg)
		if err != nil {
			b.Fatal(err)
		}
		server, err := yamux.Server(y, cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { client.Close(); server.Close() })
		return road{
			open: func() (lane, error) { return client.Open() },
			serve: func(handle func(lane)) {
				go func() {
					for {
						st, err := server.Accept()
						if err != nil {
							return
						}
						go handle(st)
					}
				}()
			},
		}
	}},
}

// tlsConns returns the ends of a bare TLS connection.
func tlsConns(b testing.TB) (client, server net.Conn) {
	x, y := tcpPair(b)
	sc, cc := testTLS(b)
	client, server = tls.Client(x, cc), tls.Server(y, sc)
	b.Cleanup(func() { x.Close(); y.Close() })
	done := result(server.(*tls.Conn).Handshake)
	if err := client.(*tls.Conn).Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := await(b, "handshake", done); err != nil {
		b.Fatal(err)
	}
	return client, server
}

// reportCPU reports the processor time of an operation, which tells more than
// the clock where others use the machine.
func reportCPU(b *testing.B) (end func()) {
	before := cpuTime(b)
	return func() { b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkThroughput(b *testing.B) {
	for _, n := range []int{1, 64} {
		for _, r := range roads {
			b.Run(fmt.Sprintf("%s/streams=%d", r.name, n), func(b *testing.B) { throughput(b, r.make(b), n) })
		}
	}
	b.Run("tls/streams=1", func(b *testing.B) {
		x, y := tlsConns(b)
		throughput(b, road{
			open:  func() (lane, error) { return x, nil },
			serve: func(handle func(lane)) { go handle(y) },
		}, 1)
	})
}

func throughput(b *testing.B, r road, n int) {
	const piece = 32 << 10
	var far sync.WaitGroup
	far.Add(n)
	share := int64((b.N + n - 1) / n)
	r.serve(func(l lane) {
		defer far.Done()
		buf := make([]byte, 64<<10)
		for left := share * piece; left > 0; {
			m, err := l.Read(buf[:min(int64(len(buf)), left)])
			if left -= int64(m); err != nil {
				return
			}
		}
	})
	b.SetBytes(piece)
	b.ReportAllocs()
	defer reportCPU(b)()
	b.ResetTimer()
	for range n {
		l, err := r.open()
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			p := make([]byte, piece)
			for range share {
				if _, err := l.Write(p); err != nil {
					return
				}
			}
		}()
	}
	far.Wait()
}

func BenchmarkPingPong(b *testing.B) {
	run := func(b *testing.B, r road) {
		r.serve(func(l lane) {
			p := make([]byte, 1)
			for {
				if _, err := l.Read(p); err != nil {
					return
				}
				if _, err := l.Write(p); err != nil {
					return
				}
			}
		})
		l, err := r.open()
		if err != nil {
			b.Fatal(err)
		}
		p := make([]byte, 1)
		b.ReportAllocs()
		defer reportCPU(b)()
		for b.Loop() {
			if _, err := l.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(l, p); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, r := range roads {
		b.Run(r.name, func(b *testing.B) { run(b, r.make(b)) })
	}
	b.Run("tls", func(b *testing.B) {
		x, y := tlsConns(b)
		run(b, road{
			open:  func() (lane, error) { return x, nil },
			serve: func(handle func(lane)) { go handle(y) },
		})
	})
}

func BenchmarkOpenEchoClose(b *testing.B) {
	for _, workers := range []int{1, 64} {
		for _, r := range roads {
			b.Run(fmt.Sprintf("%s/workers=%d", r.name, workers), func(b *testing.B) {
				r := r.make(b)
				r.serve(func(l lane) {
					p := make([]byte, 1)
					if _, err := l.Read(p); err == nil {
						l.Write(p)
					}
					l.Close()
				})
				b.ReportAllocs()
				defer reportCPU(b)()
				b.ResetTimer()
				var wg sync.WaitGroup
				for w := range workers {
					wg.Go(func() {
						p := make([]byte, 1)
						for i := w; i < b.N; i += workers {
							l, err := r.open()
							if err != nil {
								b.Error(err)
								return
							}
							l.Write(p)
							if _, err := io.ReadFull(l, p); err != nil {
								b.Error(err)
								return
							}
							l.Close()
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
