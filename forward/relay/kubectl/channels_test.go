package kubectl

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// v4client is a client of the native protocols.
type v4client struct {
	t     *testing.T
	conn  *websocket.Conn
	coded bool
}

func v4(t *testing.T, srv *httptest.Server, protocol string, ports ...uint16) *v4client {
	t.Helper()
	query := ""
	for _, p := range ports {
		query += fmt.Sprintf("&ports=%d", p)
	}
	opts := &websocket.DialOptions{HTTPClient: srv.Client()}
	if protocol != "" {
		opts.Subprotocols = []string{protocol}
	}
	conn, resp, err := websocket.Dial(t.Context(), srv.URL+"/?"+query[1:], opts)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	conn.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	c := &v4client{t: t, conn: conn, coded: protocol == v4Base64Protocol}
	if conn.Subprotocol() != protocol {
		t.Errorf("protocol %q", conn.Subprotocol())
	}
	for i, p := range ports {
		for id := range 2 {
			channel, data := c.read()
			if channel != 2*i+id || !bytes.Equal(data, []byte{byte(p), byte(p >> 8)}) {
				t.Errorf("port %d, channel %d: first message %d %x", p, 2*i+id, channel, data)
			}
		}
	}
	return c
}

func (c *v4client) readErr() (channel int, data []byte, err error) {
	kind, p, err := c.conn.Read(c.t.Context())
	if err != nil {
		return 0, nil, err
	}
	if (kind == websocket.MessageText) != c.coded {
		c.t.Errorf("message of type %v", kind)
	}
	channel, data = int(p[0]), p[1:]
	if c.coded {
		channel -= '0'
		data, err = base64.StdEncoding.DecodeString(string(data))
	}
	return channel, data, err
}

func (c *v4client) read() (channel int, data []byte) {
	c.t.Helper()
	channel, data, err := c.readErr()
	if err != nil {
		c.t.Fatal(err)
	}
	return channel, data
}

func (c *v4client) send(channel int, data []byte) {
	c.t.Helper()
	var err error
	if c.coded {
		text := string(rune('0'+channel)) + base64.StdEncoding.EncodeToString(data)
		err = c.conn.Write(c.t.Context(), websocket.MessageText, []byte(text))
	} else {
		err = c.conn.Write(c.t.Context(), websocket.MessageBinary, append([]byte{byte(channel)}, data...))
	}
	if err != nil {
		c.t.Error(err)
	}
}

// readN reads n bytes of one channel.
func (c *v4client) readN(channel, n int) []byte {
	c.t.Helper()
	var got []byte
	for len(got) < n {
		id, data := c.read()
		if id != channel {
			c.t.Fatalf("channel %d: %q", id, data)
		}
		got = append(got, data...)
	}
	return got
}

var v4Protocols = []string{"", v4Protocol, v4Base64Protocol}

func eachV4(t *testing.T, f func(t *testing.T, protocol string)) {
	for _, protocol := range v4Protocols {
		t.Run("protocol "+protocol, func(t *testing.T) { f(t, protocol) })
	}
}

func TestV4Echo(t *testing.T) {
	eachV4(t, func(t *testing.T, protocol string) {
		p := newPod(nil)
		c := v4(t, serve(t, Config{}, p, true), protocol, listen(t, echo), listen(t, echo))
		for i := range 2 {
			c.send(2*i, []byte("hello"))
			if got := c.readN(2*i, 5); string(got) != "hello" {
				t.Errorf("%q", got)
			}
		}
		c.send(2, nil)                     // an empty message
		c.send(1, []byte("nobody reads"))  // an error channel
		c.send(77, []byte("no such port")) // a channel of no port
		want := make([]byte, 300_000)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
		go func() {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(40_000))
				c.send(2, rest[:n])
				rest = rest[n:]
			}
		}()
		if got := c.readN(2, len(want)); !bytes.Equal(got, want) {
			t.Error("not what was sent")
		}
		if p.doors[DoorV4] != 2 {
			t.Errorf("doors %v", p.doors)
		}
		_ = c.conn.Close(websocket.StatusNormalClosure, "")
	})
}

// The pod ends, and with the last port the socket.
func TestV4EndsWithItsPorts(t *testing.T) {
	eachV4(t, func(t *testing.T, protocol string) {
		greet := listen(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, strings.Repeat("x", 100)) })
		c := v4(t, serve(t, Config{}, newPod(nil), false), protocol, greet)
		if got := c.readN(0, 100); strings.Trim(string(got), "x") != "" {
			t.Errorf("%q", got)
		}
		if _, _, err := c.readErr(); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("end: %v", err)
		}
	})
}

// One port is refused, and its neighbour lives.
func TestV4RefusedPort(t *testing.T) {
	eachV4(t, func(t *testing.T, protocol string) {
		good := listen(t, echo)
		p := newPod(nil)
		local := newPod(nil)
		p.dial = func(ctx context.Context, port uint16) (Connection, error) {
			if port == 1 {
				return nil, &stream.Error{Code: stream.NotListening, Text: "nothing listens there"}
			}
			return local.Dial(ctx, port, DoorV4)
		}
		c := v4(t, serve(t, Config{}, p, false), protocol, 1, good)
		channel, text := c.read()
		if channel != 1 || string(text) != "error forwarding port 1 to pod , uid : nothing listens there" {
			t.Errorf("channel %d: %q", channel, text)
		}
		c.send(2, []byte("hello"))
		if got := c.readN(2, 5); string(got) != "hello" {
			t.Errorf("%q", got)
		}
	})
}

// A client that closes has finished, and all it sent arrives.
func TestV4ClientCloses(t *testing.T) {
	eachV4(t, func(t *testing.T, protocol string) {
		got := make(chan int, 1)
		port := listen(t, func(c *net.TCPConn) {
			p, err := io.ReadAll(c)
			if err != nil {
				t.Errorf("pod reads %v", err)
			}
			got <- len(p)
		})
		c := v4(t, serve(t, Config{}, newPod(nil), false), protocol, port)
		c.send(0, make([]byte, 700_000))
		_ = c.conn.Close(websocket.StatusNormalClosure, "")
		if n := <-got; n != 700_000 {
			t.Errorf("%d bytes", n)
		}
	})
}

// A client that vanishes has not.
func TestV4ClientVanishes(t *testing.T) {
	eachV4(t, func(t *testing.T, protocol string) {
		got := make(chan error, 1)
		port := listen(t, func(c *net.TCPConn) {
			_, _ = io.CopyN(c, c, 700)
			_, err := io.ReadAll(c)
			got <- err
		})
		c := v4(t, serve(t, Config{}, newPod(nil), false), protocol, port)
		c.send(0, make([]byte, 800))
		c.readN(0, 700)
		_ = c.conn.CloseNow()
		if err := <-got; err == nil {
			t.Error("the pod reads an end")
		}
	})
}

func TestV4SessionIsOver(t *testing.T) {
	eachV4(t, func(t *testing.T, protocol string) {
		p := newPod(nil)
		c := v4(t, serve(t, Config{}, p, false), protocol, listen(t, echo))
		p.end(errors.New("pod web is gone"))
		channel, text := c.read()
		if channel != 1 || string(text) != "pod web is gone" {
			t.Errorf("channel %d: %q", channel, text)
		}
		if _, _, err := c.readErr(); websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("end: %v", err)
		}
	})
}

func TestV4BadBase64(t *testing.T) {
	for _, message := range []string{"0@@@@", "0QUJD*", "0QUI"} {
		c := v4(t, serve(t, Config{}, newPod(nil), false), v4Base64Protocol, listen(t, echo))
		if err := c.conn.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		for {
			_, _, err := c.readErr()
			if err == nil {
				continue
			}
			if websocket.CloseStatus(err) != websocket.StatusInvalidFramePayloadData {
				t.Errorf("%s: %v", message, err)
			}
			break
		}
	}
}

// A port whose pod does not read holds up the socket only beyond its buffer.
func TestV4SlowPod(t *testing.T) {
	release, read := make(chan struct{}), make(chan struct{})
	slow := listen(t, func(c *net.TCPConn) {
		defer close(read)
		<-release
		n, err := io.Copy(io.Discard, struct{ io.Reader }{c})
		if n != 3<<20 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	c := v4(t, serve(t, Config{}, newPod(nil), false), v4Protocol, slow, listen(t, echo))
	for range 3 {
		c.send(0, make([]byte, 1<<20))
	}
	c.send(2, []byte("hello"))
	if got := c.readN(2, 5); string(got) != "hello" {
		t.Errorf("%q", got)
	}
	close(release)
	_ = c.conn.Close(websocket.StatusNormalClosure, "")
	<-read
}

// FuzzChannels feeds a session of two ports with messages.
func FuzzChannels(f *testing.F) {
	f.Add(clientFrame(wsFin|opBinary, []byte("\x00hello")), false)
	f.Add(clientFrame(wsFin|opText, []byte("2aGVsbG8=")), true)
	f.Add(append(clientFrame(opText, nil), clientFrame(wsFin|opContinuation, []byte("0aGVs\nbG8="))...), true)
	f.Fuzz(func(t *testing.T, wire []byte, coded bool) {
		fuzzSession(t, wire, func(ctx context.Context, h *Handler, conn net.Conn, p *pod) {
			_ = h.serveChannels(ctx, conn, conn, p, []uint16{80, 81}, coded)
		})
	})
}
