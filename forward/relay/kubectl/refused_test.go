package kubectl

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// The reason of a refusal stays here: one word on the error stream would end the
// whole forward.
func TestRefusedConnection(t *testing.T) {
	var p *pod
	good := echoing(&p)
	dial := func(ctx context.Context, port uint16) (Connection, error) {
		if port == 81 {
			time.Sleep(time.Second)
			return nil, &stream.Error{Code: stream.NotListening, Text: "connection refused"}
		}
		return good(ctx, port)
	}
	inBubble(t, Config{}, dial, func(t *testing.T, c *rawClient, q *pod) {
		p = q
		live, _, err := c.connect(80, 1)
		if err != nil {
			t.Fatal(err)
		}
		data, errs, err := c.connect(81, 2)
		if err == nil || data == nil || !strings.Contains(err.Error(), "data stream: reset") {
			t.Fatalf("refused connection: %v", err)
		}
		_ = errs
		if err := exchange(live, "unharmed"); err != nil {
			t.Error(err)
		}
	})
}

// kubectl would keep a goroutine for each data stream that is refused. From the second
// refusal on it is the error stream that is, of which it keeps nothing.
func TestRefusedAgainAndAgain(t *testing.T) {
	var p *pod
	good := echoing(&p)
	refuse := true
	dial := func(ctx context.Context, port uint16) (Connection, error) {
		if refuse {
			return nil, &stream.Error{Code: stream.NotListening, Text: "connection refused"}
		}
		time.Sleep(time.Second)
		return good(ctx, port)
	}
	inBubble(t, Config{}, dial, func(t *testing.T, c *rawClient, q *pod) {
		p = q
		for i, want := range []string{"data stream: reset", "error stream: reset", "error stream: reset"} {
			if _, _, err := c.connect(80, i); err == nil || err.Error() != want {
				t.Errorf("connection %d: %v", i, err)
			}
		}
		synctest.Wait()
		refuse = false
		for i, wait := range []time.Duration{time.Second, 0} {
			began := time.Now()
			errs := c.openStream(0, "streamtype", "error", "port", "80", "requestid", fmt.Sprint("again", i))
			if a := <-errs.answers; a != "reply" || time.Since(began) != wait {
				t.Errorf("pod awake: %s after %v", a, time.Since(began))
			}
			data := c.openStream(0, "streamtype", "data", "port", "80", "requestid", fmt.Sprint("again", i))
			if err := exchange(data, "hello"); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestRefusalEndsTheErrorStreamWithoutAWord(t *testing.T) {
	refuse := func(context.Context, uint16) (Connection, error) {
		return nil, &stream.Error{Code: stream.NotListening, Text: "connection refused"}
	}
	inBubble(t, Config{}, refuse, func(t *testing.T, c *rawClient, _ *pod) {
		errs := c.openStream(0, "streamtype", "error", "port", "80", "requestid", "1")
		data := c.openStream(0, "streamtype", "data", "port", "80", "requestid", "1")
		if a, b := <-errs.answers, <-data.answers; a != "reply" || b != "reset" {
			t.Errorf("answers %s, %s", a, b)
		}
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
	})
	inBubble(t, Config{Strict: true}, refuse, func(t *testing.T, c *rawClient, _ *pod) {
		data, errs, err := c.connect(80, 1)
		if err != nil {
			t.Fatalf("strict: %v", err)
		}
		text, err := io.ReadAll(errs)
		if err != nil || string(text) != "error forwarding port 80 to pod , uid : connection refused" {
			t.Errorf("%q, %v", text, err)
		}
		if a := <-data.answers; a != "reset" {
			t.Error(a)
		}
	})
}

// kubectl waits for 30 s, and its library hangs if a reset comes later for a stream
// that was never answered.
func TestDialTimeoutComesInTime(t *testing.T) {
	hang := func(ctx context.Context, _ uint16) (Connection, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	inBubble(t, Config{}, hang, func(t *testing.T, c *rawClient, _ *pod) {
		began := time.Now()
		_, errs, err := c.connect(80, 1)
		if took := time.Since(began); err == nil || took < 20*time.Second || took > 28*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		_ = errs
	})
	inBubble(t, Config{DialTimeout: time.Minute}, hang, func(t *testing.T, c *rawClient, _ *pod) {
		c.openStream(0, "streamtype", "error", "port", "80", "requestid", "1")
		data := c.openStream(0, "streamtype", "data", "port", "80", "requestid", "1")
		if a, b := <-data.answers, <-data.answers; a != "reply" || b != "reset" {
			t.Errorf("late refusal: %s, %s", a, b)
		}
	})
}
