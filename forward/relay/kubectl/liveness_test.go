package kubectl

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

func TestNothingIsSaidBeforeTheFirstFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		h := New(Config{})
		ended := make(chan error, 1)
		go func() { ended <- h.serveSPDY(t.Context(), server, server, newPod(nil)) }()
		began := time.Now()
		if n, err := client.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d bytes before the first frame, %v", n, err)
		}
		if err := <-ended; !errors.Is(err, errNoFrame) {
			t.Error(err)
		}
		if took := time.Since(began); took < 4*time.Hour || took > 4*time.Hour+time.Minute {
			t.Errorf("given up after %v", took)
		}
		_ = client.Close()
	})
}

func TestOverBeforeTheFirstFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		h := New(Config{})
		p := newPod(nil)
		ended := make(chan error, 1)
		go func() { ended <- h.serveSPDY(t.Context(), server, server, p) }()
		p.end(errOnPurpose)
		if n, err := client.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d bytes before the first frame, %v", n, err)
		}
		if err := <-ended; !errors.Is(err, errOnPurpose) {
			t.Error(err)
		}
		_ = client.Close()
	})
}

func TestPings(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, _ *pod, _ <-chan forward.Conn) {
		c.send(appendPing(nil, 1))
		if id := <-c.pongs; id != 1 {
			t.Errorf("answer to ping %d", id)
		}
		// A day of idleness, kept alive by the server's pings.
		for range 24 * 60 * 4 {
			if id := <-c.pongs; id%2 != 0 {
				t.Fatalf("ping %d", id)
			}
		}
		if _, _, err := c.connect(80, 1); err != nil {
			t.Error(err)
		}
	})
}

func TestSilentClientIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		c, ended := session(t, Config{}, newPod(nil), client, server)
		c.quiet = true // reads all, says nothing
		c.send(appendPing(nil, 1))
		synctest.Wait()
		began := time.Now()
		if err := <-ended; !errors.Is(err, errSilent) {
			t.Error(err)
		}
		if took := time.Since(began); took < time.Minute || took > 80*time.Second {
			t.Errorf("noticed after %v", took)
		}
		c.close()
	})
}

// kubectl with a local reader that has paused reads nothing and says nothing. It is
// well, and must be left alone for long.
func TestClientThatReadsNothing(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		// The client's own buffer stands for all that is between kubectl and its program.
		c.cfg.StreamBuffer = 1 << 20
		data, _ := mustConnect(t, c, 1)
		server := <-pods
		written := make(chan int, 1)
		go func() {
			n, _ := server.Write(make([]byte, 4<<20))
			written <- n
		}()
		time.Sleep(25 * time.Minute)
		if c.ctx.Err() != nil {
			t.Fatal("the session has ended")
		}
		for n := 0; n < 4<<20; {
			m, err := data.Read(make([]byte, 1<<20))
			if n += m; err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
		}
		if n := <-written; n != 4<<20 {
			t.Errorf("%d bytes written", n)
		}
		began := time.Now()
		if _, err := server.Write(make([]byte, 4<<20)); !errors.Is(err, forward.ErrReset) {
			t.Errorf("pod writes %v", err)
		}
		if took := time.Since(began); took < 30*time.Minute || took > 32*time.Minute {
			t.Errorf("given up after %v", took)
		}
	})
}

func TestTCPRetries(t *testing.T) {
	a, b := tcpPair(t)
	defer a.Close()
	defer b.Close()
	if n, known := tcpRetries(a); !known || n != 0 {
		t.Errorf("%d retries, known %v", n, known)
	}
	tuneSocket(a)
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	tuneSocket(p)
	if _, known := tcpRetries(p); known {
		t.Error("a pipe has no retries")
	}
}
