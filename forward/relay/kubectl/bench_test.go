package kubectl

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// source sends without end, sink takes whatever comes.
func source(c *net.TCPConn) {
	p := make([]byte, 64<<10)
	for {
		if _, err := c.Write(p); err != nil {
			return
		}
	}
}

func sink(c *net.TCPConn) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) }

// eachPath runs f for every transport with the server under test and with one of
// the same shape made of upstream's parts.
func eachPath(b *testing.B, f func(b *testing.B, open func(port uint16) *forwarding)) {
	for _, transport := range transports {
		b.Run("culvert/"+transport, func(b *testing.B) {
			srv := serve(b, Config{}, newPod(nil), true)
			f(b, func(port uint16) *forwarding { return kubectl(b, srv, transport, port) })
		})
	}
	b.Run("upstream/spdy", func(b *testing.B) {
		srv := serveUpstream(b)
		f(b, func(port uint16) *forwarding { return kubectl(b, srv, "spdy", port) })
	})
}

func BenchmarkDownload(b *testing.B) {
	eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
		c := open(listen(b, source)).dial(b)
		p := make([]byte, 64<<10)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUpload(b *testing.B) {
	eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
		c := open(listen(b, sink)).dial(b)
		p := make([]byte, 64<<10)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPingPong(b *testing.B) {
	eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
		c := open(listen(b, echo)).dial(b)
		p := make([]byte, 64)
		for b.Loop() {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkConnect is one connection with one request and one answer, both sides
// finishing, as a simple HTTP client makes them.
func BenchmarkConnect(b *testing.B) {
	for _, parallel := range []int{1, 16} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			eachPath(b, func(b *testing.B, open func(port uint16) *forwarding) {
				addr := open(listen(b, echo)).addr
				todo := make(chan struct{}, parallel)
				var wg sync.WaitGroup
				for range parallel {
					wg.Go(func() {
						for range todo {
							once(b, addr)
						}
					})
				}
				for b.Loop() {
					todo <- struct{}{}
				}
				close(todo)
				wg.Wait()
			})
		})
	}
}

func once(b *testing.B, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 200)); err != nil {
		b.Error(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if n, err := io.Copy(io.Discard, c); err != nil || n != 200 {
		b.Errorf("%d bytes, %v", n, err)
	}
}
