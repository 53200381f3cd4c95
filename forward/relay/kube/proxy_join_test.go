package kube

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// execRequest asks for an upgrade.
func execRequest(more ...string) []string {
	return append([]string{
		"POST /api/v1/namespaces/n/pods/p/exec?command=secret HTTP/1.1", "Host: r", "Content-Length: 0",
		"Authorization: Bearer " + janesToken, "Connection: Upgrade", "Upgrade: SPDY/3.1",
	}, more...)
}

// upgraded makes an upgraded connection to an API server that does talk with it.
// ended is closed when the API server's end of it is done.
func upgraded(t *testing.T, rig *frontRig, more string) *rawClient {
	t.Helper()
	c := rig.dial()
	if _, err := c.Write([]byte(strings.Join(execRequest(), "\r\n") + "\r\n\r\n" + more)); err != nil {
		t.Fatal(err)
	}
	res := c.response()
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "SPDY/3.1" || res.Header.Get("Connection") != "Upgrade" ||
		res.Header.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" {
		t.Fatalf("%s %q", res.Status, res.Header)
	}
	return c
}

// talk makes a rig whose API server talks over an upgraded connection.
func talk(t *testing.T, do func(net.Conn, *bufio.ReadWriter)) (rig *frontRig, ended chan struct{}) {
	ended = make(chan struct{})
	answer := echo(t, "SPDY/3.1", func(c net.Conn, rw *bufio.ReadWriter) {
		defer close(ended)
		do(c, rw)
	})
	return newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/exec") {
			answer(w, r)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}}), ended
}

func awaitEnd(t *testing.T, what string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patienceInTests):
		t.Errorf("%s goes on", what)
	}
}

// What the client says with its request arrives, an end arrives as an end, and
// the answer comes back however late.
func TestUpgradeCarriesBytesAndEnds(t *testing.T) {
	finished := make(chan struct{})
	rig, ended := talk(t, func(_ net.Conn, rw *bufio.ReadWriter) {
		all, err := io.ReadAll(rw)
		<-finished
		if err != nil {
			t.Error(err)
		}
		_, _ = rw.WriteString("got " + string(all))
		_ = rw.Flush()
	})
	c := upgraded(t, rig, "early, ")
	if _, err := c.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	close(finished)
	if all, err := io.ReadAll(c); err != nil || string(all) != "got early, late" {
		t.Errorf("%q, %v", all, err)
	}
	awaitEnd(t, "the API server's end", ended)
	rig.relay.Close() // waits for no hijacked connection
	c.Close()
	line := rig.awaitLine("upgraded session ended")
	for _, want := range []string{"bytes_up=11", "bytes_down=15", "protocol=SPDY/3.1", "path=/api/v1/namespaces/n/pods/p/exec ", "method=POST", "from=127.0.0.1:"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	if strings.Contains(line, "secret") || strings.Contains(line, "err=") {
		t.Errorf("a command or an error in %s", line)
	}
	if seen := rig.requests("/api/v1/namespaces/n/pods/p/exec"); len(seen) != 1 || seen[0].ProtoMajor != 1 || seen[0].Header.Get("Upgrade") != "SPDY/3.1" {
		t.Errorf("the API server saw %+v", seen)
	}
	var metrics strings.Builder
	rig.kube.WriteMetrics(&metrics)
	if !strings.Contains(metrics.String(), `culvert_relay_front_requests_total{kind="upgrade",code="1xx"} 1`) {
		t.Error(metrics.String())
	}
}

// awaitLine returns the one line of the log that holds what.
func (r *frontRig) awaitLine(what string) string {
	r.t.Helper()
	for end := time.Now().Add(patienceInTests); ; time.Sleep(time.Millisecond) {
		switch lines := r.log.lines(what); {
		case len(lines) == 1:
			return lines[0]
		case len(lines) > 1 || time.Now().After(end):
			r.t.Fatalf("lines with %q: %q", what, lines)
		}
	}
}

// Whoever vanishes takes the other end along, and nothing is left of the session.
func TestUpgradeEndsWithEitherEnd(t *testing.T) {
	tests := map[string]struct {
		api    func(net.Conn, *bufio.ReadWriter)
		client func(*frontRig, *rawClient)
		wantOK bool // the client reads a clean end
	}{
		"client breaks off": {
			api: func(_ net.Conn, rw *bufio.ReadWriter) { _, _ = io.Copy(io.Discard, rw) },
			client: func(_ *frontRig, c *rawClient) {
				_ = c.NetConn().(*net.TCPConn).SetLinger(0)
				_ = c.NetConn().Close()
			},
		},
		"API server breaks off": {
			api: func(c net.Conn, _ *bufio.ReadWriter) {
				raw := c.(*tls.Conn).NetConn()
				_ = raw.(*net.TCPConn).SetLinger(0)
				_ = raw.Close()
			},
		},
		"API server hangs up, client leaves": {
			api:    func(net.Conn, *bufio.ReadWriter) {},
			client: func(_ *frontRig, c *rawClient) { _, _ = io.Copy(io.Discard, c); c.Close() },
			wantOK: true,
		},
		"API server hangs up, client stays": {
			api:    func(net.Conn, *bufio.ReadWriter) {},
			client: func(rig *frontRig, _ *rawClient) {},
			wantOK: true,
		},
		"the relay ends": {
			api:    func(_ net.Conn, rw *bufio.ReadWriter) { _, _ = io.Copy(io.Discard, rw) },
			client: func(rig *frontRig, _ *rawClient) { rig.stop() },
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rig, ended := talk(t, tt.api)
			rig.front.proxy.partingTime = 50 * time.Millisecond
			c := upgraded(t, rig, "")
			if tt.client != nil {
				tt.client(rig, c)
			}
			if name != "client breaks off" && name != "API server hangs up, client leaves" {
				_, err := c.Reader.ReadByte()
				if clean := errors.Is(err, io.EOF); clean != tt.wantOK {
					t.Errorf("the client reads %v", err)
				}
			}
			awaitEnd(t, "the API server's end", ended)
			line := rig.awaitLine("upgraded session ended")
			if name == "API server hangs up, client stays" && !strings.Contains(line, errStayed.Error()) {
				t.Error(line)
			}
		})
	}
}

// A refused upgrade leaves no open pipe to the API server: what the client sends
// after it goes nowhere (CVE-2018-1002105).
func TestRefusedUpgradeIsTheEnd(t *testing.T) {
	const next = "GET /api/v1/secrets HTTP/1.1\r\nHost: r\r\n\r\n"
	for name, request := range map[string]string{
		"by the API server": strings.Join([]string{"GET /api/v1/pods HTTP/1.1", "Host: r", "Connection: Upgrade", "Upgrade: websocket"}, "\r\n"),
		"by the relay":      strings.Join([]string{"GET /api/v1/pods HTTP/1.1", "Host: r", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"}, "\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			rig, _ := talk(t, nil)
			c := rig.dial()
			if _, err := c.Write([]byte(request + "\r\n\r\n" + next)); err != nil {
				t.Fatal(err)
			}
			res := c.response()
			if res.StatusCode/100 != 4 || !res.Close {
				t.Errorf("%s, close %t", res.Status, res.Close)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			if b, err := c.ReadByte(); err == nil {
				t.Errorf("the connection goes on with %q", b)
			}
			if n := len(rig.requests("/api/v1/secrets")); n > 0 {
				t.Error("the next request got through")
			}
			if h2c := name == "by the relay"; h2c != (len(rig.requests("/")) == 0) {
				t.Errorf("the API server saw %d requests", len(rig.requests("/")))
			}
		})
	}
}

// roundTrip is a transport that does as it is told.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestUpgradeHasATimeLimitForItsAnswerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		defer b.kube.Close()
		b.kube.upgrade = roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		w := b.ask(t, http.MethodGet, "/api/v1/pods", "Connection: Upgrade", "Upgrade: websocket")
		statusOf(t, w.Body.String())
		if took := time.Since(began); w.Code != http.StatusGatewayTimeout || took != handshakeTime {
			t.Errorf("%d after %v", w.Code, took)
		}

		body, later := io.Pipe()
		ended := false
		b.kube.upgrade = roundTrip(func(r *http.Request) (*http.Response, error) {
			context.AfterFunc(r.Context(), func() { ended = true })
			return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{}, Body: body, Request: r}, nil
		})
		go func() {
			defer later.Close()
			time.Sleep(10 * handshakeTime)
			if ended {
				t.Error("an answer was cut off while it came")
			}
			_, _ = io.WriteString(later, "late")
		}()
		w = b.ask(t, http.MethodGet, "/api/v1/pods", "Connection: Upgrade", "Upgrade: websocket")
		synctest.Wait()
		if w.Code != http.StatusForbidden || w.Body.String() != "late" || !ended {
			t.Errorf("%d %s, request ended: %t", w.Code, w.Body, ended)
		}
	})
}

// Through an agent: TLS is with the name in the URL, whatever carries it.
func TestWayThroughAgents(t *testing.T) {
	var rig *frontRig
	var dials atomic.Int64
	answer := echo(t, "SPDY/3.1", func(_ net.Conn, rw *bufio.ReadWriter) { _, _ = io.Copy(rw, rw); _ = rw.Flush() })
	rig = newFrontRig(t, rigConfig{
		api: func(w http.ResponseWriter, r *http.Request) {
			if r.TLS.ServerName != "example.com" {
				t.Errorf("TLS was for %q", r.TLS.ServerName)
			}
			if strings.HasSuffix(r.URL.Path, "/exec") {
				answer(w, r)
			}
		},
		kube: func(c *Config) {
			c.APIServer = "https://example.com:6443" // what the certificate of httptest is for, and nowhere near
			c.DialAPI = func(ctx context.Context) (net.Conn, error) {
				dials.Add(1)
				return new(net.Dialer).DialContext(ctx, "tcp", rig.api.Listener.Addr().String())
			}
		},
	})
	if res, _ := rig.do(rig.ask(t.Context(), http.MethodGet, "/api", nil)); res.StatusCode != http.StatusOK {
		t.Error(res.Status)
	}
	c := upgraded(t, rig, "x")
	_ = c.CloseWrite()
	if all, err := io.ReadAll(c); string(all) != "x" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	if n := dials.Load(); n < 2 {
		t.Errorf("%d connections through agents", n)
	}
}

// The relay's own questions do not hang on an API server that switches protocols.
func TestOwnQuestionsSwitchToNothing(t *testing.T) {
	released := make(chan struct{})
	rig := newFrontRig(t, rigConfig{plainAPI: true, api: echo(t, "SPDY/3.1", func(_ net.Conn, rw *bufio.ReadWriter) {
		_, _ = io.Copy(io.Discard, rw)
		close(released)
	})})
	res := rig.dial().send("GET /api/v1/namespaces/n/pods/p/portforward HTTP/1.1", "Host: r", "Authorization: Bearer "+janesToken).response()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Error(res.Status)
	}
	awaitEnd(t, "the connection", released)
}
