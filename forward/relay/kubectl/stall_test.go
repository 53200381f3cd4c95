package kubectl

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

// upload writes n bytes in the background and reports what came of it.
func upload(s *rawStream, n int) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, n))
		done <- err
	}()
	return done
}

func TestStalledUploadBelowTheLimitHurtsNobody(t *testing.T) {
	var stalls atomic.Int32
	cfg := Config{Hooks: Hooks{Stalled: func() { stalls.Add(1) }}}
	withPod(t, cfg, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		stuck, _ := mustConnect(t, c, 1)
		asleep := <-pods // reads nothing
		if err := <-upload(stuck, 4<<20); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			data, _ := mustConnect(t, c, 10+i)
			server := <-pods
			if err := <-upload(data, 100_000); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(server, make([]byte, 100_000)); err != nil {
				t.Fatal(err)
			}
		}
		if n := stalls.Load(); n != 0 {
			t.Errorf("%d stalls", n)
		}
		if _, err := io.ReadFull(asleep, make([]byte, 4<<20)); err != nil {
			t.Errorf("the pod awoke and read %v", err)
		}
	})
}

// Beyond the limit the session waits, since nothing may be lost; but not for ever.
func TestStalledUploadBeyondTheLimit(t *testing.T) {
	var stalls, resets atomic.Int32
	var waited atomic.Int64
	cfg := Config{Hooks: Hooks{
		Stalled:    func() { stalls.Add(1) },
		Unstalled:  func(d time.Duration) { waited.Store(int64(d)) },
		StallReset: func() { resets.Add(1) },
	}}
	withPod(t, cfg, func(t *testing.T, c *rawClient, p *pod, pods <-chan forward.Conn) {
		stuck, errs := mustConnect(t, c, 1)
		asleep := <-pods
		other, _ := mustConnect(t, c, 2)
		server := <-pods
		done := upload(stuck, 8<<20)
		time.Sleep(time.Second)
		if stalls.Load() != 1 {
			t.Fatalf("%d stalls", stalls.Load())
		}
		began := time.Now()
		if err := exchangeWith(other, server); err != nil {
			t.Errorf("sibling: %v", err)
		}
		if took := time.Since(began); took < 25*time.Second || took > 45*time.Second {
			t.Errorf("the sibling waited for %v", took)
		}
		<-done // it may have been taken whole, and thrown away
		if _, err := stuck.Read(make([]byte, 1)); !errors.Is(err, errResetByServer) {
			t.Errorf("stalled upload: %v", err)
		}
		if err := silentEnd(errs); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadAll(asleep); !errors.Is(err, forward.ErrReset) {
			t.Errorf("pod reads %v", err)
		}
		synctest.Wait()
		if resets.Load() != 1 || waited.Load() < int64(30*time.Second) {
			t.Errorf("%d resets, waited %v", resets.Load(), time.Duration(waited.Load()))
		}
	})
}

// exchangeWith sends a word to the pod and back.
func exchangeWith(data *rawStream, server forward.Conn) error {
	if _, err := data.Write([]byte("word")); err != nil {
		return err
	}
	p := make([]byte, 4)
	if _, err := io.ReadFull(server, p); err != nil {
		return err
	}
	if _, err := server.Write(p); err != nil {
		return err
	}
	_, err := io.ReadFull(data, p)
	return err
}

// As long as nobody else waits, as somebody at a breakpoint may think, waiting is free.
func TestStalledUploadAlone(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		data, _ := mustConnect(t, c, 1)
		asleep := <-pods
		done := upload(data, 8<<20)
		time.Sleep(20 * time.Minute)
		if _, err := io.ReadFull(asleep, make([]byte, 8<<20)); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A pod that is slow is not one that is stuck.
func TestSlowPodKeepsItsConnection(t *testing.T) {
	withPod(t, Config{}, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		data, _ := mustConnect(t, c, 1)
		slow := <-pods
		mustConnect(t, c, 2)
		done := upload(data, 6<<20)
		for n := 0; n < 6<<20; n += 64 << 10 {
			time.Sleep(20 * time.Second)
			if _, err := io.ReadFull(slow, make([]byte, 64<<10)); err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The session's own limit falls on the connection that holds most of it.
func TestSessionBufferIsShared(t *testing.T) {
	cfg := Config{SessionBuffer: 2 << 20}
	withPod(t, cfg, func(t *testing.T, c *rawClient, _ *pod, pods <-chan forward.Conn) {
		big, _ := mustConnect(t, c, 1)
		<-pods
		small, _ := mustConnect(t, c, 2)
		asleep := <-pods
		live, _ := mustConnect(t, c, 3)
		server := <-pods
		if err := <-upload(small, 300_000); err != nil {
			t.Fatal(err)
		}
		done := upload(big, 3<<20)
		if err := exchangeWith(live, server); err != nil {
			t.Error(err)
		}
		<-done
		if _, err := big.Read(make([]byte, 1)); !errors.Is(err, errResetByServer) {
			t.Errorf("the big one: %v", err)
		}
		if _, err := io.ReadFull(asleep, make([]byte, 300_000)); err != nil {
			t.Errorf("the small one: %v", err)
		}
	})
}

// Sessions of one user may be many, and so may the pods that read nothing. What all
// of them hold is bounded; who has other pods goes on, and nothing is lost.
func TestAllSessionsShareABudget(t *testing.T) {
	const total, each, greedy = 1 << 20, 2 << 20, 8
	synctest.Test(t, func(t *testing.T) {
		h, pods := New(Config{TotalBuffer: total}), make(chan forward.Conn, 1)
		var p *pod
		p = newPod(func(context.Context, uint16) (Connection, error) {
			a, b := forwardtest.Pipe()
			pods <- b
			return &link{pod: p, conn: a}, nil
		})
		ended := make(chan error, greedy+1)
		begin := func() (*rawClient, *rawStream, forward.Conn) {
			client, server := net.Pipe()
			go func() { ended <- h.serveSPDY(context.Background(), server, server, p) }()
			c := newRawClient(t, client)
			data, _ := mustConnect(t, c, 1)
			return c, data, <-pods
		}
		var clients []*rawClient
		var asleep []forward.Conn
		var uploads []<-chan error
		for range greedy {
			c, data, server := begin()
			clients, asleep, uploads = append(clients, c), append(asleep, server), append(uploads, upload(data, each))
		}
		synctest.Wait()
		if n := h.budget.used.Load(); n < total/2 || n > total+greedy*blockSize {
			t.Errorf("%d bytes are held, %d are allowed", n, total)
		}
		c, data, server := begin()
		clients = append(clients, c)
		done := upload(data, each)
		if _, err := io.ReadFull(server, make([]byte, each)); err != nil {
			t.Errorf("who has a good pod: %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := exchangeWith(data, server); err != nil {
			t.Error(err)
		}
		for i, pod := range asleep {
			if _, err := io.ReadFull(pod, make([]byte, each)); err != nil {
				t.Errorf("a pod awoke and read %v", err)
			}
			if err := <-uploads[i]; err != nil {
				t.Error(err)
			}
		}
		for _, c := range clients {
			c.close()
			<-ended
		}
		if n := h.budget.used.Load(); n != 0 {
			t.Errorf("%d bytes are still held", n)
		}
	})
}
