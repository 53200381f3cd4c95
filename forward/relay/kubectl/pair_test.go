package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

// inBubble runs f with a client of a session whose pod is dial, on a clock of its own.
func inBubble(t *testing.T, cfg Config, dial func(ctx context.Context, port uint16) (Connection, error), f func(t *testing.T, c *rawClient, p *pod)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		p := newPod(dial)
		c, ended := session(t, cfg, p, client, server)
		f(t, c, p)
		c.close()
		<-ended
	})
}

// echoing is a pod that returns what it is sent.
func echoing(p **pod) func(context.Context, uint16) (Connection, error) {
	return func(context.Context, uint16) (Connection, error) {
		a, b := forwardtest.Pipe()
		go func() {
			_, err := io.Copy(struct{ io.Writer }{b}, struct{ io.Reader }{b})
			if err == nil {
				err = b.CloseWrite()
			}
			if err != nil {
				_ = b.Reset(err)
			}
			_ = b.Close()
		}()
		return &link{pod: *p, conn: a}, nil
	}
}

func withEcho(t *testing.T, cfg Config, f func(t *testing.T, c *rawClient, p *pod)) {
	t.Helper()
	var p *pod
	inBubble(t, cfg, echoing(&p), func(t *testing.T, c *rawClient, q *pod) {
		p = q
		f(t, c, q)
	})
}

// exchange sends a word and reads it back, finishing both ways.
func exchange(data *rawStream, word string) error {
	if _, err := data.Write([]byte(word)); err != nil {
		return err
	}
	if err := data.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(data)
	if err == nil && string(got) != word {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

// silentEnd checks that an error stream ends without a word.
func silentEnd(errs *rawStream) error {
	text, err := io.ReadAll(errs)
	if err != nil || len(text) > 0 {
		return fmt.Errorf("error stream: %q, %w", text, err)
	}
	return nil
}

func TestStreamsPairInEitherOrder(t *testing.T) {
	headers := func(kind, request string) []string {
		h := []string{"streamtype", kind, "port", "80"}
		if request != "" {
			h = append(h, "requestid", request)
		}
		return h
	}
	tests := []struct {
		name          string
		first, second []string
		dataFirst     bool
	}{
		{"error first", headers("error", "7"), headers("data", "7"), false},
		{"data first", headers("data", "7"), headers("error", "7"), true},
		{"without request ids", headers("error", ""), headers("data", ""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			withEcho(t, Config{}, func(t *testing.T, c *rawClient, p *pod) {
				first := c.openStream(0, tt.first...)
				synctest.Wait()
				second := c.openStream(0, tt.second...)
				errs, data := first, second
				if tt.dataFirst {
					errs, data = data, errs
				}
				if a, b := <-errs.answers, <-data.answers; a != "reply" || b != "reply" {
					t.Fatalf("answers %s, %s", a, b)
				}
				if err := errors.Join(exchange(data, "hello"), silentEnd(errs)); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if joins := p.joined(); len(joins) != 1 || joins[0] != nil {
					t.Errorf("joins ended with %v", joins)
				}
			})
		})
	}
}

func TestDataBeforeTheReplyIsKept(t *testing.T) {
	withEcho(t, Config{}, func(t *testing.T, c *rawClient, _ *pod) {
		data := c.openStream(0, "streamtype", "data", "port", "80", "requestid", "1")
		if _, err := data.Write([]byte("early ")); err != nil {
			t.Fatal(err)
		}
		c.openStream(0, "streamtype", "error", "port", "80", "requestid", "1")
		if err := data.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(data)
		if err != nil || string(got) != "early " {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestStreamThatIsOpenedFinished(t *testing.T) {
	withEcho(t, Config{}, func(t *testing.T, c *rawClient, p *pod) {
		errs := c.openStream(flagFin, "streamtype", "error", "port", "80", "requestid", "1")
		data := c.openStream(flagFin, "streamtype", "data", "port", "80", "requestid", "1")
		if got, err := io.ReadAll(data); err != nil || len(got) > 0 {
			t.Errorf("%q, %v", got, err)
		}
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
	})
}

func TestBadStreamsAreResetAndTheSessionLives(t *testing.T) {
	tests := []struct {
		name    string
		flags   byte
		headers []string
	}{
		{"no port", 0, []string{"streamtype", "data"}},
		{"port abc", 0, []string{"streamtype", "data", "port", "abc"}},
		{"port -1", 0, []string{"streamtype", "data", "port", "-1"}},
		{"port 0", 0, []string{"streamtype", "data", "port", "0"}},
		{"port 65536", 0, []string{"streamtype", "data", "port", "65536"}},
		{"no type", 0, []string{"port", "80"}},
		{"another type", 0, []string{"port", "80", "streamtype", "stdin"}},
		{"unidirectional", flagUnidirectional, []string{"port", "80", "streamtype", "data"}},
	}
	withEcho(t, Config{}, func(t *testing.T, c *rawClient, _ *pod) {
		for _, tt := range tests {
			if a := <-c.openStream(spdyFlags(tt.flags), tt.headers...).answers; a != "reset" {
				t.Errorf("%s: %s", tt.name, a)
			}
		}
		for _, port := range []int{1, 8000, 65535} {
			data, _, err := c.connect(port, port)
			if err == nil {
				err = exchange(data, "still here")
			}
			if err != nil {
				t.Errorf("port %d: %v", port, err)
			}
		}
	})
}

func TestSecondStreamOfAKind(t *testing.T) {
	for _, strict := range []bool{false, true} {
		withEcho(t, Config{Strict: strict}, func(t *testing.T, c *rawClient, _ *pod) {
			data, errs, err := c.connect(80, 1)
			if err != nil {
				t.Fatal(err)
			}
			again := c.openStream(0, "streamtype", "data", "port", "80", "requestid", "1")
			if !strict {
				if a := <-again.answers; a != "reset" {
					t.Error(a)
				}
				if err := errors.Join(exchange(data, "unharmed"), silentEnd(errs)); err != nil {
					t.Error(err)
				}
				return
			}
			if err := exchange(data, "unharmed"); err != nil {
				t.Error(err)
			}
			text, err := io.ReadAll(errs)
			if string(text) != "error processing stream for request 1: data stream already assigned" || err != nil {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}

func TestOneStreamWithoutTheOther(t *testing.T) {
	closed := make(chan struct{}, 1)
	dial := func(context.Context, uint16) (Connection, error) { return unjoined{closed}, nil }
	inBubble(t, Config{}, dial, func(t *testing.T, c *rawClient, _ *pod) {
		began := time.Now()
		errs := c.openStream(0, "streamtype", "error", "port", "80", "requestid", "1")
		data := c.openStream(0, "streamtype", "data", "port", "80", "requestid", "2")
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("given up after %v", took)
		}
		<-closed
		if a, b := <-data.answers, <-data.answers; a != "reply" || b != "reset" {
			t.Errorf("lonely data stream: %s, %s", a, b)
		}
	})
	inBubble(t, Config{Strict: true}, dial, func(t *testing.T, c *rawClient, _ *pod) {
		errs := c.openStream(0, "streamtype", "error", "port", "80", "requestid", "1")
		text, err := io.ReadAll(errs)
		if err != nil || !strings.HasSuffix(string(text), ", request=1) timed out waiting for streams") {
			t.Errorf("%q, %v", text, err)
		}
	})
}

// unjoined is a Connection that only gets closed.
type unjoined struct{ closed chan<- struct{} }

func (unjoined) Join(context.Context, forward.Conn) error { panic("joined") }

func (u unjoined) Close() error {
	u.closed <- struct{}{}
	return nil
}

// The data stream's port counts. What was dialled for another one is given up.
func TestPortsThatDiffer(t *testing.T) {
	closed := make(chan struct{}, 1)
	var p *pod
	good := echoing(&p)
	dial := func(ctx context.Context, port uint16) (Connection, error) {
		if port == 80 {
			return unjoined{closed}, nil
		}
		return good(ctx, port)
	}
	inBubble(t, Config{}, dial, func(t *testing.T, c *rawClient, q *pod) {
		p = q
		c.openStream(0, "streamtype", "error", "port", "80", "requestid", "1")
		data := c.openStream(0, "streamtype", "data", "port", "8080", "requestid", "1")
		if err := exchange(data, "hello"); err != nil {
			t.Error(err)
		}
		<-closed
	})
}

func TestClientGivesUpWhileItsPodIsDialled(t *testing.T) {
	var canceled atomic.Int32
	hang := func(ctx context.Context, _ uint16) (Connection, error) {
		<-ctx.Done()
		canceled.Add(1)
		return nil, ctx.Err()
	}
	inBubble(t, Config{}, hang, func(t *testing.T, c *rawClient, _ *pod) {
		errs := c.openStream(0, "streamtype", "error", "port", "80", "requestid", "1")
		data := c.openStream(0, "streamtype", "data", "port", "80", "requestid", "1")
		synctest.Wait()
		_ = data.Reset(nil)
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
		lonely := c.openStream(0, "streamtype", "error", "port", "80", "requestid", "2")
		synctest.Wait()
		_ = lonely.Reset(nil)
		synctest.Wait()
		if n := canceled.Load(); n != 2 {
			t.Errorf("%d dials were given up", n)
		}
	})
}

func TestTooManyConnections(t *testing.T) {
	withEcho(t, Config{MaxConnections: 2}, func(t *testing.T, c *rawClient, _ *pod) {
		first, _, err := c.connect(80, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.connect(80, 2); err != nil {
			t.Fatal(err)
		}
		if a := <-c.openStream(0, "streamtype", "error", "port", "80", "requestid", "3").answers; a != "reset" {
			t.Error(a)
		}
		if err := exchange(first, "x"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, _, err := c.connect(80, 4); err != nil {
			t.Errorf("after one had ended: %v", err)
		}
	})
}
