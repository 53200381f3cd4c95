package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// What is served when the relay is told to go goes on; what rests is let go, and
// nobody new is let in.
func TestDrainOfTheHTTPDoor(t *testing.T) {
	w := newWeb()
	h := newHouse(t, Config{HTTP: w.on, DrainTimeout: time.Hour})
	idle := h.secure("http/1.1")
	write(t, idle, []byte("GET /who HTTP/1.1\r\nHost: relay\r\n\r\n"))
	if b := make([]byte, 12); true {
		if _, err := io.ReadFull(idle, b); err != nil || string(b) != "HTTP/1.1 200" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	c, br := h.upgraded()
	var holding sync.WaitGroup
	b := h.browser([]string{"h2"})
	holding.Go(func() {
		if code, body := get(t, b, "/hold"); code != http.StatusOK || body != "held" {
			t.Errorf("%d %q", code, body)
		}
	})
	h.metric(`culvert_relay_http_requests_in_flight 2`)
	h.stop()
	<-h.s.Draining()
	if _, err := io.ReadAll(idle); err != nil {
		t.Errorf("an idle connection ends with %v", err)
	}
	if code, body := get(t, h.browser([]string{"h2"}), "/who"); code == http.StatusOK {
		t.Errorf("a new connection: %q", body)
	}
	echoed(t, c, br)
	close(w.release)
	holding.Wait()
	if err := <-w.cause; err != nil {
		t.Errorf("the request was ended: %v", err)
	}
	echoed(t, c, br)
	select {
	case <-h.done:
		t.Error("the relay has ended")
	default:
	}
	_ = c.Close()
	<-h.done
}

// At the end of the drain what is left hears why, and is cut.
func TestDrainCutsRequests(t *testing.T) {
	w := newWeb()
	h := newHouse(t, Config{HTTP: w.on, DrainTimeout: 200 * time.Millisecond})
	c, _ := h.upgraded()
	var holding sync.WaitGroup
	b := h.browser([]string{"h2"})
	holding.Go(func() { get(t, b, "/hold") })
	h.metric(`culvert_relay_http_requests_in_flight 2`)
	h.stop()
	for range 2 {
		if err := <-w.cause; !errors.Is(err, &stream.Error{Code: stream.GoingAway}) {
			t.Errorf("a request ends with %v", err)
		}
	}
	<-h.done
	if _, err := io.ReadAll(c); errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
	holding.Wait()
}

// A handler that does not listen is cut off from its connection.
func TestDeafHandlerIsCutOff(t *testing.T) {
	read := make(chan error, 1)
	r := newRig(t, Config{HTTP: func(*Server) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, err = io.ReadAll(rw)
			read <- err
		})
	}})
	a := newAuthority(t)
	r.s.cfg.TLS = a.serve(true)
	r.work.Go(func() { r.s.front.run(r.ctx) })
	near, far := tcpPair(t)
	served := make(chan struct{})
	r.work.Go(func() {
		defer close(served)
		r.s.connection(map[Role]context.Context{RoleNode: r.ctx}, r.s.door.enter(near))
	})
	c := tls.Client(far, a.dial("http/1.1"))
	defer c.Close()
	write(t, c, []byte("GET / HTTP/1.1\r\nHost: relay\r\n\r\n"))
	eventually(t, "a request is served", func() bool { _, n := r.s.front.count(); return n == 1 })
	r.s.front.close()
	if err := <-read; err == nil {
		t.Error("the handler reads an end")
	}
	<-served
	if conns, requests := r.s.front.count(); conns != 0 || requests != 0 || r.s.sessions.Load() != 0 {
		t.Errorf("%d connections, %d requests are left", conns, requests)
	}
}

// A watch and the logs of a container have no end: they do not hold a relay that
// goes away for as long as those may who cannot come again.
func TestDrainDoesNotWaitForWhatHasNoEnd(t *testing.T) {
	for _, proto := range []string{"h2", "http/1.1"} {
		w := newWeb()
		h := newHouse(t, Config{HTTP: w.on, DrainTimeout: time.Hour})
		h.s.front.partingTime = 50 * time.Millisecond
		c, br := h.upgraded()
		var holding sync.WaitGroup
		b := h.browser([]string{proto})
		holding.Go(func() { get(t, b, "/hold") })
		h.metric(`culvert_relay_http_requests_in_flight 2`)
		h.stop()
		if err := <-w.cause; !errors.Is(err, &stream.Error{Code: stream.GoingAway}) {
			t.Errorf("%s: the request ends with %v", proto, err)
		}
		holding.Wait()
		echoed(t, c, br)
		select {
		case <-h.done:
			t.Error("the relay has ended")
		default:
		}
		_ = c.Close()
		<-h.done
	}
}
