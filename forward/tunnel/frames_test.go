package tunnel

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

func frame(typ stream.FrameType, payload string) []byte {
	b := make([]byte, stream.HeaderSize, stream.HeaderSize+len(payload))
	stream.PutHeader(b, typ, len(payload))
	return append(b, payload...)
}

func TestConnReadsFrames(t *testing.T) {
	reset := string(stream.AppendReset(nil, stream.PodReset, "why"))
	for _, c := range []struct {
		name string
		wire string
		ends bool // the stream beneath ends too
		data string
		want func(error) bool
	}{
		{"data and end", string(frame(stream.FrameData, "ab")) + string(frame(stream.FrameFin, "")), false, "ab",
			func(err error) bool { return err == io.EOF }},
		{"data after the end is not read", string(frame(stream.FrameFin, "")) + string(frame(stream.FrameData, "ab")), true, "",
			func(err error) bool { return err == io.EOF }},
		{"empty data", string(frame(stream.FrameData, "")) + string(frame(stream.FrameData, "x")) + string(frame(stream.FrameFin, "")), true, "x",
			func(err error) bool { return err == io.EOF }},
		{"no end mark", string(frame(stream.FrameData, "ab")), true, "ab", isUnexpected},
		{"nothing at all", "", true, "", isUnexpected},
		{"cut within a header", "\x01\x00", true, "", isUnexpected},
		{"cut within data", string(frame(stream.FrameData, "abc")[:6]), true, "ab", isUnexpected},
		{"cut within a reset", reset[:len(reset)-1], true, "", isUnexpected},
		{"reset", reset, false, "", func(err error) bool {
			return errors.Is(err, forward.ErrReset) && errors.Is(err, &stream.Error{Code: stream.PodReset})
		}},
		{"unknown frame", "\x09\x00\x00\x00", false, "", isMalformed},
		{"reserved frame", "\x04\x00\x00\x00", false, "", isMalformed},
		{"unknown flags", "\x01\x80\x00\x01x", false, "", isMalformed},
		{"end with a payload", "\x02\x00\x00\x01x", false, "", isMalformed},
		{"too much data", "\x01\x00\xff\xff", false, "", isMalformed},
		{"reset without a code", "\x03\x00\x00\x01x", false, "", isMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server := plainSessions(t, Config{})
			a, b := streams(t, client, server)
			conn := NewConn(b)
			defer conn.Close()
			a.Write([]byte(c.wire))
			if c.ends {
				a.CloseWrite()
			}
			var got []byte
			err := await(t, "read", result(func() error {
				p := make([]byte, 10)
				for {
					n, err := conn.Read(p)
					got = append(got, p[:n]...)
					if err != nil {
						return err
					}
				}
			}))
			if string(got) != c.data || !c.want(err) {
				t.Errorf("got %q and %v", got, err)
			}
			if _, again := conn.Read(make([]byte, 1)); again != err { // it stays the same
				t.Errorf("then %v", again)
			}
		})
	}
}

func isUnexpected(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF)
}

func isMalformed(err error) bool {
	return err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, ErrLost)
}

// opener is a Conn that waits for its Reply, and the stream it comes on.
func opener(t *testing.T) (*Conn, *Stream) {
	t.Helper()
	client, server := plainSessions(t, Config{Linger: 50 * time.Millisecond})
	a, b := streams(t, client, server)
	c := NewConn(a)
	c.ExpectReply()
	t.Cleanup(func() { c.Close(); b.Close() })
	return c, b
}

func TestDataMayGoBeforeTheReply(t *testing.T) {
	c, far := opener(t)
	if _, err := c.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 9)
	if _, err := io.ReadFull(far, got); err != nil || string(got[stream.HeaderSize:]) != "early" {
		t.Fatalf("%q, %v", got, err)
	}
	b, _ := stream.AppendReply(nil, &stream.Reply{Code: stream.OK})
	b = append(append(b, frame(stream.FrameData, "hello")...), frame(stream.FrameFin, "")...)
	for i := range b { // however it is cut
		far.Write(b[i : i+1])
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := c.WaitReply(background(t)); err != nil && err != io.EOF {
		t.Error(err)
	}
}

func TestRefusedOpen(t *testing.T) {
	refusal := &stream.Error{Code: stream.NotListening, Text: "nobody listens there"}
	for name, wait := range map[string]func(*Conn) error{
		"read": func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"lazy": func(c *Conn) error {
			_, err := c.ReadLazy(func() []byte { t.Error("borrowed"); return nil }, func() {})
			return err
		},
		"wait": func(c *Conn) error { return c.WaitReply(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			c, far := opener(t)
			if err := stream.WriteReply(far, &stream.Reply{Code: refusal.Code, Text: refusal.Text}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				coded := (*stream.Error)(nil)
				if err := wait(c); !errors.As(err, &coded) || *coded != *refusal {
					t.Errorf("got %v, want %v", err, refusal)
				}
			}
		})
	}
}

func TestReplyThatNeverComes(t *testing.T) {
	t.Run("context", func(t *testing.T) {
		c, _ := opener(t)
		cause := errors.New("not wanted any more")
		ctx, cancel := context.WithCancelCause(context.Background())
		waited := result(func() error { return c.WaitReply(ctx) })
		time.Sleep(5 * time.Millisecond)
		cancel(cause)
		if err := await(t, "wait", waited); !errors.Is(err, cause) {
			t.Error(err)
		}
	})
	t.Run("reset here", func(t *testing.T) {
		c, _ := opener(t)
		cause := errors.New("enough")
		waited := result(func() error { return c.WaitReply(context.Background()) })
		time.Sleep(5 * time.Millisecond)
		c.Reset(cause)
		if err := await(t, "wait", waited); !errors.Is(err, cause) || !errors.Is(err, forward.ErrReset) {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, cause) {
			t.Error("read:", err)
		}
	})
	t.Run("stream ends", func(t *testing.T) {
		c, far := opener(t)
		far.Close()
		if err := await(t, "wait", result(func() error { return c.WaitReply(context.Background()) })); !isUnexpected(err) {
			t.Error(err)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		c, far := opener(t)
		far.Write([]byte("HTTP/1.1 400 Bad Request\r\n"))
		if err := await(t, "wait", result(func() error { return c.WaitReply(context.Background()) })); !isMalformed(err) {
			t.Error(err)
		}
	})
}

// A context that ends just after the answer came spoils nothing.
func TestContextOfWaitReplyIsForgotten(t *testing.T) {
	for range 50 {
		client, server := plainSessions(t, Config{})
		a, far := streams(t, client, server)
		c := NewConn(a)
		c.ExpectReply()
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		stream.WriteReply(far, &stream.Reply{Code: stream.OK})
		far.Write(append(frame(stream.FrameData, "hello"), frame(stream.FrameFin, "")...))
		if err := c.WaitReply(ctx); err == nil {
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
				t.Fatalf("%q, %v", got, err)
			}
		}
		c.Close()
		client.Close()
		server.Close()
	}
}
