package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// podConn is a stream whose answer the test gives.
type podConn struct {
	answer chan error
	ended  chan struct{}
	end    sync.Once
	cause  error

	mu       sync.Mutex
	got      bytes.Buffer
	finished bool
	blocked  bool // writes wait for the end
}

func newPodConn() *podConn { return &podConn{answer: make(chan error, 1), ended: make(chan struct{})} }

func (c *podConn) WaitReply(ctx context.Context) error {
	select {
	case err := <-c.answer:
		return err
	case <-c.ended:
		return forward.ResetBy(c.cause)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *podConn) Read([]byte) (int, error)                    { return 0, io.EOF }
func (c *podConn) ReadLazy(func() []byte, func()) (int, error) { return 0, io.EOF }

func (c *podConn) ReadPush(func() []byte, func(), func([]byte) int) (int, error) { return 0, io.EOF }

func (c *podConn) Write(p []byte) (int, error) {
	if c.blocked {
		<-c.ended
		return 0, forward.ErrReset
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.Write(p)
}

func (c *podConn) WriteFrame(b []byte) (int, error) { return c.Write(b[forward.Headroom:]) }
func (c *podConn) CloseWrite() error                { c.finished = true; return nil }
func (c *podConn) Close() error                     { return c.Reset(nil) }
func (c *podConn) Reset(cause error) error {
	c.end.Do(func() { c.cause = cause; close(c.ended) })
	return nil
}

func (c *podConn) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.String()
}

// pods is a session whose streams the test answers, by the name of the pod.
func pods(byName map[string]*podConn) *fakeSession {
	s := newFakeSession()
	s.onOpen = func(o *stream.Open) (conn, error) { return byName[o.Pod], nil }
	return s
}

// hops is a route over several pods.
type hops struct {
	mu   sync.Mutex
	left []string
	wait time.Duration // before each but the first
	told []error
}

func (h *hops) Next(ctx context.Context) (Target, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.told) > 0 && h.wait > 0 {
		select {
		case <-time.After(h.wait):
		case <-ctx.Done():
			return Target{}, errors.New("no pod is ready")
		}
	}
	return Target{"ns", h.left[0], 80}, nil
}

func (h *hops) Refused(_ Target, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, err)
	if len(h.left) == 1 {
		return false
	}
	h.left = h.left[1:]
	return true
}

// running is a Client over sessions, one after the other.
func running(t *testing.T, cfg Config, sessions ...*fakeSession) *Client {
	t.Helper()
	c, stop := start(t, &script{outcome: func(n int, _ string) (session, error) {
		return sessions[min(n, len(sessions)-1)], nil
	}}, cfg)
	t.Cleanup(func() { stop() })
	return c
}

func TestRefusedStreamGoesToAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone, fresh := newPodConn(), newPodConn()
		c := running(t, Config{}, pods(map[string]*podConn{"gone": gone, "fresh": fresh}))
		route := &hops{left: []string{"gone", "fresh"}}
		conn, err := c.Open(t.Context(), route, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("que"))
		if gone.text() != "que" {
			t.Errorf("the first pod got %q before its answer", gone.text())
		}
		conn.(forward.FrameWriter).WriteFrame(append(make([]byte, forward.Headroom), "stion"...))
		conn.CloseWrite()
		gone.answer <- &stream.Error{Code: stream.PodNotFound}
		fresh.answer <- nil
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read = %v", err)
		}
		if fresh.text() != "question" || !fresh.finished {
			t.Errorf("the second pod got %q, finished %v", fresh.text(), fresh.finished)
		}
		if stream.CodeOf(route.told[0]) != stream.PodNotFound {
			t.Errorf("the route was told %v", route.told)
		}
		conn.Close()
	})
}

func TestLastRefusalIsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := newPodConn()
		c := running(t, Config{}, pods(map[string]*podConn{"gone": gone}))
		conn, err := c.Open(t.Context(), &hops{left: []string{"gone"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		gone.answer <- &stream.Error{Code: stream.AgentOffline}
		for range 2 {
			if _, err := conn.Read(make([]byte, 1)); stream.CodeOf(err) != stream.AgentOffline {
				t.Errorf("read = %v", err)
			}
		}
		if _, err := conn.Write([]byte("x")); stream.CodeOf(err) != stream.AgentOffline {
			t.Errorf("write = %v", err)
		}
		if err := conn.CloseWrite(); err == nil {
			t.Error("finished what was refused")
		}
		conn.Reset(nil)
	})
}

func TestAttemptsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := newPodConn()
		c := running(t, Config{WaitTimeout: 10 * time.Second}, pods(map[string]*podConn{"gone": gone}))
		began := time.Now()
		conn, err := c.Open(t.Context(), &hops{left: []string{"gone", "fresh"}, wait: time.Hour}, nil)
		if err != nil {
			t.Fatal(err)
		}
		gone.answer <- &stream.Error{Code: stream.PodNotFound}
		if _, err := conn.Read(make([]byte, 1)); err == nil || err.Error() != "no pod is ready" {
			t.Errorf("read = %v", err)
		}
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("gave up after %v", d)
		}
		conn.Reset(nil)
	})
}

// A relay that refuses everything is not asked for ever.
func TestTriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		s := newFakeSession()
		s.onOpen = func(*stream.Open) (conn, error) {
			opened++
			c := newPodConn()
			c.answer <- &stream.Error{Code: stream.PodNotFound}
			return c, nil
		}
		c := running(t, Config{}, s)
		conn, err := c.Open(t.Context(), &hops{left: make([]string, 10*maxTries)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); stream.CodeOf(err) != stream.PodNotFound || opened != maxTries {
			t.Errorf("read = %v after %d tries", err, opened)
		}
		conn.Reset(nil)
	})
}

func TestResetEndsAWaitForAnotherPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := newPodConn()
		c := running(t, Config{}, pods(map[string]*podConn{"gone": gone}))
		conn, err := c.Open(t.Context(), &hops{left: []string{"gone", "fresh"}, wait: time.Hour}, nil)
		if err != nil {
			t.Fatal(err)
		}
		gone.answer <- &stream.Error{Code: stream.PodNotFound}
		read := make(chan error)
		go func() { _, err := conn.Read(make([]byte, 1)); read <- err }()
		synctest.Wait()
		conn.Reset(errCut)
		if err := <-read; !errors.Is(err, errCut) || !errors.Is(err, forward.ErrReset) {
			t.Errorf("read = %v", err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, errCut) {
			t.Errorf("write = %v", err)
		}
	})
}

func TestWriterWaitsForTheAnswerBeyondTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := newPodConn()
		c := running(t, Config{}, pods(map[string]*podConn{"web": pod}))
		conn, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(make([]byte, maxReplay))
		written := make(chan error) // nobody reads
		go func() { _, err := conn.Write([]byte("more")); written <- err }()
		synctest.Wait()
		if strings.HasSuffix(pod.text(), "more") {
			t.Error("wrote more than can be written again")
		}
		pod.answer <- nil
		if err := <-written; err != nil || !strings.HasSuffix(pod.text(), "more") {
			t.Errorf("write = %v", err)
		}
		conn.Reset(nil)
	})
}

func TestBlockedWriterIsFreedByTheRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, fresh := newPodConn(), newPodConn()
		stuck.blocked = true
		c := running(t, Config{}, pods(map[string]*podConn{"stuck": stuck, "fresh": fresh}))
		conn, err := c.Open(t.Context(), &hops{left: []string{"stuck", "fresh"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan error)
		go func() { _, err := conn.Write([]byte("question")); written <- err }()
		synctest.Wait()
		stuck.answer <- &stream.Error{Code: stream.WrongNode}
		fresh.answer <- nil
		conn.Read(make([]byte, 1))
		if err := <-written; err != nil || fresh.text() != "question" {
			t.Errorf("write = %v, the pod got %q", err, fresh.text())
		}
		conn.Reset(nil)
	})
}

func TestExpiredTokenIsReplacedForOneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var expired int
		old, better := newPodConn(), newPodConn()
		first, second := pods(map[string]*podConn{"web": old}), pods(map[string]*podConn{"web": better})
		c := running(t, Config{Expired: func() { expired++ }}, first, second)
		time.Sleep(time.Hour)
		conn, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("question"))
		old.answer <- &stream.Error{Code: stream.Unauthenticated}
		better.answer <- nil
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF || better.text() != "question" {
			t.Errorf("read = %v, the pod got %q", err, better.text())
		}
		if expired != 1 || first.err != nil {
			t.Errorf("%d tokens replaced, old session ended with %v", expired, first.err)
		}
		conn.Close()

		// The new one is refused as well: that is that.
		better = newPodConn()
		second.onOpen = pods(map[string]*podConn{"web": better}).onOpen
		conn, err = c.Open(t.Context(), Target{"ns", "web", 80}, nil)
		if err != nil {
			t.Fatal(err)
		}
		better.answer <- &stream.Error{Code: stream.Unauthenticated}
		if _, err := conn.Read(make([]byte, 1)); stream.CodeOf(err) != stream.Unauthenticated || expired != 1 {
			t.Errorf("read = %v, %d tokens replaced", err, expired)
		}
		conn.Reset(nil)
	})
}

// Whoever has to log in again keeps what runs, and is not asked at every turn.
func TestRunOutlivesALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loggedIn atomic.Bool
		first := newFakeSession()
		s := &script{outcome: func(n int, _ string) (session, error) {
			switch {
			case n == 0:
				return first, nil
			case !loggedIn.Load():
				return nil, cureless(&stream.Error{Code: stream.Unauthenticated})
			}
			return newFakeSession(), nil
		}}
		c, stop := start(t, s, Config{Expired: func() {}})
		time.Sleep(time.Minute)
		first.cut(errCut)
		time.Sleep(9 * time.Minute)
		if n := len(s.times()); n > 4 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		loggedIn.Store(true)
		if _, err := c.Open(t.Context(), Target{"ns", "web", 80}, nil); err != nil {
			t.Errorf("Open = %v after the login", err)
		}
		if err := stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}
