package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// withPod runs f with the pod's end of every connection that is dialled.
func withPod(t *testing.T, cfg Config, f func(t *testing.T, c *rawClient, p *pod, pods <-chan forward.Conn)) {
	t.Helper()
	var p *pod
	pods := make(chan forward.Conn, 1000)
	dial := func(context.Context, uint16) (Connection, error) {
		a, b := forwardtest.Pipe()
		pods <- b
		return &link{pod: p, conn: a}, nil
	}
	inBubble(t, cfg, dial, func(t *testing.T, c *rawClient, q *pod) {
		p = q
		f(t, c, q, pods)
	})
}

func mustConnect(t *testing.T, c *rawClient, request int) (data, errs *rawStream) {
	t.Helper()
	data, errs, err := c.connect(80, request)
	if err != nil {
		t.Fatal(err)
	}
	return data, errs
}

// The client finishes, and the pod answers in its own time. Upstream's runtimes give
// it one second.
func TestAnswerComesHoursAfterTheHalfClose(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, p *pod, pods <-chan forward.Conn) {
		data, errs := mustConnect(t, c, 1)
		server := <-pods
		if _, err := data.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if err := data.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(server)
		if err != nil || string(got) != "question" {
			t.Fatalf("%q, %v", got, err)
		}
		time.Sleep(3 * time.Hour)
		if _, err := server.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err = io.ReadAll(data)
		if err != nil || string(got) != "answer" {
			t.Errorf("%q, %v", got, err)
		}
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if joins := p.joined(); len(joins) != 1 || joins[0] != nil {
			t.Errorf("joins ended with %v", joins)
		}
	})
}

// kubectl waits for the end of the error stream before it closes its local socket.
func TestPodFinishesFirst(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, p *pod, pods <-chan forward.Conn) {
		data, errs := mustConnect(t, c, 1)
		server := <-pods
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(data); err != nil || len(got) > 0 {
			t.Errorf("%q, %v", got, err)
		}
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
		// What kubectl does then, whether or not its local program has more to say.
		_ = data.Reset(nil)
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, forward.ErrReset) {
			t.Errorf("pod reads %v", err)
		}
		synctest.Wait()
		joins := p.joined()
		if len(joins) != 1 || stream.CodeOf(joins[0]) != stream.Canceled || !strings.Contains(joins[0].Error(), "after the pod had finished") {
			t.Errorf("joins ended with %v", joins)
		}
	})
}

func TestPodResets(t *testing.T) {
	for _, strict := range []bool{false, true} {
		withPod(t, Config{Strict: strict}, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
			data, errs := mustConnect(t, c, 1)
			_ = (<-pods).Reset(&stream.Error{Code: stream.PodReset, Text: "by the pod"})
			if a := <-data.answers; a != "reset" {
				t.Error(a)
			}
			if _, err := data.Read(make([]byte, 1)); !errors.Is(err, errResetByServer) {
				t.Errorf("client reads %v", err)
			}
			text, err := io.ReadAll(errs)
			if err != nil || strict != strings.HasPrefix(string(text), "error forwarding port 80 to pod , uid : ") {
				t.Errorf("strict %v: %q, %v", strict, text, err)
			}
			another, _ := mustConnect(t, c, 2)
			_ = another.Reset(nil)
		})
	}
}

func TestClientResets(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, p *pod, pods <-chan forward.Conn) {
		data, errs := mustConnect(t, c, 1)
		server := <-pods
		_ = data.Reset(nil)
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, forward.ErrReset) {
			t.Errorf("pod reads %v", err)
		}
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if joins := p.joined(); len(joins) != 1 || stream.CodeOf(joins[0]) != stream.Canceled {
			t.Errorf("joins ended with %v", joins)
		}
	})
}

// A client that vanishes has not finished what it was sending.
func TestLostSessionIsNeverAnEnd(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		data, _ := mustConnect(t, c, 1)
		server := <-pods
		if _, err := data.Write([]byte("half of it")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.close()
		if _, err := io.ReadAll(server); !errors.Is(err, forward.ErrReset) {
			t.Errorf("pod reads %v", err)
		}
	})
}

func TestSessionIsOver(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, p *pod, pods <-chan forward.Conn) {
		data, errs := mustConnect(t, c, 1)
		lonely := c.openStream(0, "streamtype", "error", "port", "80", "requestid", "2")
		synctest.Wait()
		p.end(&stream.Error{Code: stream.PodNotFound, Text: "pod web is gone"})
		for _, s := range []*rawStream{errs, lonely} {
			if text, err := io.ReadAll(s); err != nil || string(text) != "pod web is gone" {
				t.Errorf("%q, %v", text, err)
			}
		}
		if a := <-data.answers; a != "reset" {
			t.Error(a)
		}
		if last := <-c.goAway; last != lonely.id {
			t.Errorf("GOAWAY after stream %d", last)
		}
		if _, err := (<-pods).Read(make([]byte, 1)); !errors.Is(err, forward.ErrReset) {
			t.Errorf("pod reads %v", err)
		}
		began := time.Now()
		<-c.done // although this client does not hang up
		if took := time.Since(began); took > lingerTimeout {
			t.Errorf("connection closed after %v", took)
		}
	})
}

func TestGoAwayOfTheClient(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		data, _ := mustConnect(t, c, 1)
		server := <-pods
		c.send(appendGoAway(nil, 0, goAwayOK))
		if a := <-c.openStream(0, "streamtype", "error", "port", "80", "requestid", "2").answers; a != "reset" {
			t.Errorf("after GOAWAY: %s", a)
		}
		if _, err := server.Write([]byte("still")); err != nil {
			t.Fatal(err)
		}
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := data.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(data); err != nil || string(got) != "still" {
			t.Errorf("%q, %v", got, err)
		}
		<-c.done // nothing is left
	})
}

// A small stream gets its turn while others are being filled.
func TestStreamsTakeTurns(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		for i := range 3 {
			data, _ := mustConnect(t, c, i)
			server := <-pods
			go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{data}) }()
			go func() {
				for p := make([]byte, 64<<10); ; {
					if _, err := server.Write(p); err != nil {
						return
					}
				}
			}()
		}
		data, _ := mustConnect(t, c, 9)
		server := <-pods
		for i := range 100 {
			want := fmt.Sprint("message ", i)
			if _, err := server.Write([]byte(want)); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(data, got); err != nil || string(got) != want {
				t.Fatalf("%q, %v", got, err)
			}
		}
	})
}
