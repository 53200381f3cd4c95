package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// ends of a way through a middle: what is measured.
type ends struct {
	client, agent io.ReadWriteCloser
}

// culvertWay is a stream through a relay over TLS on loopback.
func culvertWay(b *testing.B) ends {
	h := newHouse(b, Config{})
	node, _ := h.agentOf("node-a")
	client := h.clientOf()
	p := (&rig{t: b}).forward(client, node)
	return ends{client: tunnel.NewConn(p.client), agent: tunnel.NewConn(p.agent)}
}

// httpWay is a connection that was upgraded at the HTTP door and joined with a
// link: the way of kubectl, without its frames.
func httpWay(b *testing.B) ends {
	h := newHouse(b, Config{HTTP: func(s *Server) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := bob
			l, err := s.Dial(r.Context(), c)
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				_ = l.Close()
				return
			}
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
			_ = rw.Flush()
			_ = l.Join(r.Context(), forward.Pipe(conn, conn))
		})
	}})
	node, _ := h.agentOf("node-a")
	c := h.secure("http/1.1")
	_ = c.SetDeadline(time.Time{})
	write(b, c, []byte("GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"))
	agent, _ := node.accept()
	answer(b, agent, stream.OK, "")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		b.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	return ends{client: c, agent: tunnel.NewConn(agent)}
}

// bareWay is two TLS connections and io.Copy between them.
func bareWay(b *testing.B) ends {
	a := newAuthority(b)
	pair := func() (dialled, accepted *tls.Conn) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		sc := a.serve(false)
		dialled, accepted = tls.Client(c, a.dial(stream.ALPNClient)), tls.Server(s, sc)
		var both sync.WaitGroup
		both.Go(func() {
			if err := accepted.HandshakeContext(context.Background()); err != nil {
				b.Error(err)
			}
		})
		if err := dialled.HandshakeContext(context.Background()); err != nil {
			b.Fatal(err)
		}
		both.Wait()
		return dialled, accepted
	}
	client, left := pair()
	agent, right := pair()
	var all sync.WaitGroup
	all.Go(func() { _, _ = io.Copy(right, left); _ = right.Close(); _ = left.Close() })
	all.Go(func() { _, _ = io.Copy(left, right); _ = right.Close(); _ = left.Close() })
	b.Cleanup(func() { _ = client.Close(); _ = agent.Close(); all.Wait() })
	return ends{client: client, agent: agent}
}

func ways() map[string]func(*testing.B) ends {
	return map[string]func(*testing.B) ends{"culvert": culvertWay, "http": httpWay, "bare": bareWay}
}

// BenchmarkThroughput sends from the agent to the client: a download.
func BenchmarkThroughput(b *testing.B) {
	for name, way := range ways() {
		b.Run(name, func(b *testing.B) {
			e := way(b)
			buf := make([]byte, forward.Headroom+stream.MaxPayload)
			b.SetBytes(stream.MaxPayload)
			b.ReportAllocs()
			var reader sync.WaitGroup
			total := int64(b.N) * stream.MaxPayload
			b.ResetTimer()
			reader.Go(func() {
				in := make([]byte, 64<<10)
				for left := total; left > 0; {
					n, err := e.client.Read(in)
					if left -= int64(n); err != nil {
						b.Error(err)
						return
					}
				}
			})
			for range b.N {
				var err error
				if f, ok := e.agent.(forward.FrameWriter); ok {
					_, err = f.WriteFrame(buf)
				} else {
					_, err = e.agent.Write(buf[forward.Headroom:])
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			reader.Wait()
			b.StopTimer()
			_ = e.client.Close()
			_ = e.agent.Close()
		})
	}
}

// BenchmarkPingPong sends 64 bytes there and back.
func BenchmarkPingPong(b *testing.B) {
	for name, way := range ways() {
		b.Run(name, func(b *testing.B) {
			e := way(b)
			var echo sync.WaitGroup
			echo.Go(func() {
				buf := make([]byte, 64)
				for {
					if _, err := io.ReadFull(e.agent, buf); err != nil {
						return
					}
					if _, err := e.agent.Write(buf); err != nil {
						return
					}
				}
			})
			buf := make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.client.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(e.client, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			_ = e.client.Close()
			_ = e.agent.Close()
			echo.Wait()
		})
	}
}

// BenchmarkOpen opens a stream, has it accepted, and finishes it.
func BenchmarkOpen(b *testing.B) {
	h := newHouse(b, Config{})
	node, _ := h.agentOf("node-a")
	client := h.clientOf()
	var serve sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	serve.Go(func() {
		_ = node.far.Serve(ctx, func(st *tunnel.Stream) {
			if _, err := stream.ReadOpen(st); err == nil {
				_ = stream.WriteReply(st, &stream.Reply{Version: stream.Version})
				_, _ = st.WriteLast(fin())
			}
			_ = st.Close()
		})
	})
	b.ReportAllocs()
	for b.Loop() {
		st := client.ask("shop", "web")
		if _, err := stream.ReadReply(st); err != nil {
			b.Fatal(err)
		}
		_, _ = st.WriteLast(fin())
		_ = st.Close()
	}
	b.StopTimer()
	cancel()
	serve.Wait()
}
