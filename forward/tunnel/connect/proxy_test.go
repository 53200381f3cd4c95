package connect

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// through is a Dialer that goes through the proxy at addr.
func through(addr string, user *url.Userinfo) func(*url.URL) (*url.URL, error) {
	return func(u *url.URL) (*url.URL, error) {
		if u.Scheme != "https" || u.Host != "relay.test:7443" {
			return nil, fmt.Errorf("asked for %s", u)
		}
		return &url.URL{Scheme: "http", Host: addr, User: user}, nil
	}
}

// splice answers a CONNECT by what write says and joins it to the relay.
func splice(relay string, asked chan<- *http.Request, answer func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		asked <- req
		answer(c)
		up, err := net.Dial("tcp", relay)
		if err != nil {
			return
		}
		defer up.Close()
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(up, br); up.(*net.TCPConn).CloseWrite() })
		io.Copy(c, up)
		c.(*net.TCPConn).CloseWrite()
		wg.Wait()
	}
}

func TestDialThroughAProxy(t *testing.T) {
	for name, answer := range map[string]func(net.Conn){
		"at once": func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n") },
		"old":     func(c net.Conn) { io.WriteString(c, "HTTP/1.0 200 OK\r\nProxy-Agent: x\r\n\r\n") },
		"slowly": func(c net.Conn) {
			for _, b := range []byte("HTTP/1.1 200 OK\r\nVia: x\r\n\r\n") {
				c.Write([]byte{b})
				time.Sleep(100 * time.Microsecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			relayAddr, tc := relay(t, welcome)
			asked := make(chan *http.Request, 1)
			proxy := listen(t, splice(relayAddr, asked, answer))
			d := &Dialer{TLS: tc, ALPN: stream.ALPNClient, Proxy: through(proxy, url.UserPassword("joe", "p:w"))}
			if err := dial(t, d, "relay.test:7443"); err != nil {
				t.Fatal(err)
			}
			req := <-asked
			if req.Method != http.MethodConnect || req.RequestURI != "relay.test:7443" || req.Host != "relay.test:7443" {
				t.Errorf("asked %s %s for host %s", req.Method, req.RequestURI, req.Host)
			}
			req.Header.Set("Authorization", req.Header.Get("Proxy-Authorization"))
			if user, password, ok := req.BasicAuth(); !ok || user != "joe" || password != "p:w" {
				t.Errorf("authorized as %q %q", user, password)
			}
		})
	}
}

func TestProxyThatDoesNotHelp(t *testing.T) {
	_, tc := testTLS(t)
	for name, c := range map[string]struct {
		answer func(net.Conn)
		want   string
	}{
		"refuses":           {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") }, "407"},
		"forbids at length": {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!") }, "403"},
		"no proxy":          {func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_9\r\n\r\n") }, "malformed"},
		"hangs up":          {func(net.Conn) {}, "EOF"},
		"talks too early":   {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n220 mail ESMTP\r\n") }, "before"},
		"never stops": {func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for range 10000 {
				if _, err := io.WriteString(c, "X: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
					return
				}
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := listen(t, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				c.answer(conn)
			})
			d := &Dialer{TLS: tc, ALPN: stream.ALPNClient, Proxy: through(proxy, url.UserPassword("joe", "secret"))}
			err := dial(t, d, "relay.test:7443")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "proxy") {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestProxyThatCannotBeUsed(t *testing.T) {
	_, tc := testTLS(t)
	broken := errors.New("broken settings")
	for name, c := range map[string]struct {
		proxy func(*url.URL) (*url.URL, error)
		want  string
	}{
		"unknown scheme": {func(*url.URL) (*url.URL, error) { return url.Parse("socks5://127.0.0.1:1") }, "socks5"},
		"setting":        {func(*url.URL) (*url.URL, error) { return nil, broken }, broken.Error()},
		"nobody there":   {func(*url.URL) (*url.URL, error) { return url.Parse("http://127.0.0.1:1") }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			err := dial(t, &Dialer{TLS: tc, ALPN: stream.ALPNClient, Proxy: c.proxy}, "relay.test:7443")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNoProxyForThisRelay(t *testing.T) {
	addr, tc := relay(t, welcome)
	d := &Dialer{TLS: tc, ALPN: stream.ALPNClient, Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }}
	if err := dial(t, d, addr); err != nil {
		t.Fatal(err)
	}
}

// TestAddr reaches a relay at an address of its name. A proxy is asked by name all
// the same, and finds the address itself.
func TestAddr(t *testing.T) {
	addr, tc := relay(t, welcome)
	none := func(u *url.URL) (*url.URL, error) {
		if u.Host != "relay.test:7443" {
			return nil, fmt.Errorf("asked for %s", u)
		}
		return nil, nil
	}
	for _, proxy := range []func(*url.URL) (*url.URL, error){nil, none} {
		d := &Dialer{TLS: tc, ALPN: stream.ALPNClient, Addr: addr, Proxy: proxy}
		if err := dial(t, d, "relay.test:7443"); err != nil {
			t.Error(err)
		}
	}
	asked := make(chan *http.Request, 1)
	proxy := listen(t, splice(addr, asked, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n") }))
	d := &Dialer{TLS: tc, ALPN: stream.ALPNClient, Addr: "192.0.2.1:1", Proxy: through(proxy, nil)}
	if err := dial(t, d, "relay.test:7443"); err != nil {
		t.Fatal(err)
	}
	if req := <-asked; req.RequestURI != "relay.test:7443" {
		t.Errorf("asked the proxy for %s", req.RequestURI)
	}
}
