package kubectl

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// serveUpstream is a server of the shape that container runtimes have: upstream's
// SPDY server, a pair of streams for each connection, two io.Copy and a second of
// grace after the first end. It is what the benchmarks compare with.
func serveUpstream(t testing.TB) *httptest.Server {
	t.Helper()
	var wg sync.WaitGroup
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(1)
		defer wg.Done()
		if _, err := httpstream.Handshake(r, w, []string{protocolName}); err != nil {
			return
		}
		streams := make(chan httpstream.Stream, 1)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if conn == nil {
			return
		}
		defer conn.Close()
		pairs := make(map[string][2]httpstream.Stream)
		for {
			select {
			case <-conn.CloseChan():
				return
			case s := <-streams:
				id := s.Headers().Get("requestID")
				pair := pairs[id]
				if s.Headers().Get("streamType") == "error" {
					pair[0] = s
				} else {
					pair[1] = s
				}
				pairs[id] = pair
				if pair[0] != nil && pair[1] != nil {
					delete(pairs, id)
					wg.Go(func() {
						forwardUpstream(pair[0], pair[1])
						conn.RemoveStreams(pair[0], pair[1])
					})
				}
			}
		}
	}))
	// Its sessions do not always end with their client.
	var mu sync.Mutex
	var open []net.Conn
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateHijacked {
			mu.Lock()
			defer mu.Unlock()
			open = append(open, c)
		}
	}
	srv.StartTLS()
	t.Cleanup(func() {
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		srv.Close()
		wg.Wait()
	})
	return srv
}

func forwardUpstream(errs, data httpstream.Stream) {
	defer data.Close()
	defer errs.Close()
	port, _ := strconv.Atoi(data.Headers().Get("port"))
	c, err := net.Dial("tcp4", fmt.Sprintf("localhost:%d", port))
	if err != nil {
		_, _ = fmt.Fprintf(errs, "error forwarding port %d: %v", port, err)
		_, _ = data.Reset(), errs.Reset()
		return
	}
	defer c.Close()
	ends := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(data, c); ends <- struct{}{} }()
	go func() { _, _ = io.Copy(c, data); ends <- struct{}{} }()
	<-ends
	select {
	case <-ends:
	case <-time.After(time.Second):
	}
}
