package client

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseAddresses(t *testing.T) {
	for _, tc := range []struct {
		in   []string
		want string // ip, with ? when it may fail
		err  string
	}{
		{in: nil, want: "127.0.0.1? ::1?"},
		{in: []string{"localhost"}, want: "127.0.0.1? ::1?"},
		{in: []string{"127.0.0.1"}, want: "127.0.0.1"},
		{in: []string{"localhost", "127.0.0.1"}, want: "127.0.0.1 ::1?"},
		{in: []string{"::1", "localhost"}, want: "127.0.0.1? ::1"},
		{in: []string{"::1", "10.0.0.1", "10.0.0.1"}, want: "10.0.0.1 ::1"},
		{in: []string{"0.0.0.0"}, want: "0.0.0.0"},
		{in: []string{"::ffff:127.0.0.1"}, want: "127.0.0.1"},
		{in: []string{"example.com"}, err: "want an IP address or localhost"},
		{in: []string{""}, err: "want an IP address or localhost"},
		{in: []string{"127.0.0.1:80"}, err: "want an IP address or localhost"},
	} {
		list, err := parseAddresses(tc.in)
		var got []string
		for _, a := range list {
			s := a.ip.String()
			if a.optional {
				s += "?"
			}
			got = append(got, s)
		}
		switch {
		case tc.err == "" && (err != nil || strings.Join(got, " ") != tc.want):
			t.Errorf("parseAddresses(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("parseAddresses(%q) error = %v; want one with %q", tc.in, err, tc.err)
		}
	}
}

func TestListenChoosesOnePortForBothFamilies(t *testing.T) {
	l, err := Listen(nil, Ports{Local: 0, Remote: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Ports().Local == 0 || l.Ports().Remote != 80 {
		t.Errorf("ports %v", l.Ports())
	}
	for _, a := range l.Addrs() {
		if a.Port() != l.Ports().Local || !a.Addr().IsLoopback() {
			t.Errorf("bound %v beside port %d", a, l.Ports().Local)
		}
	}
	text := func(a, b netip.AddrPort) int { return strings.Compare(a.Addr().String(), b.Addr().String()) }
	if !slices.IsSortedFunc(l.Addrs(), text) {
		t.Errorf("addresses %v are not sorted", l.Addrs())
	}
}

func TestListenOnATakenPort(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := Ports{Local: uint16(taken.Addr().(*net.TCPAddr).Port), Remote: 80}

	if l, err := Listen([]string{"127.0.0.1", "localhost"}, p); err == nil {
		l.Close()
		t.Error("an explicit address that is taken was passed over")
	} else if !addrInUse(err) {
		t.Errorf("error %v does not say that the port is taken", err)
	}

	probe, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on this machine: ", err)
	}
	probe.Close()
	l, err := Listen(nil, p)
	if err != nil {
		t.Fatalf("localhost with ::1 free: %v", err)
	}
	defer l.Close()
	if len(l.Addrs()) != 1 || len(l.Skipped()) != 1 {
		t.Errorf("bound %v, skipped %v", l.Addrs(), l.Skipped())
	}
	l.Close()

	both, err := net.Listen("tcp6", net.JoinHostPort("::1", taken.Addr().String()[len("127.0.0.1:"):]))
	if err != nil {
		t.Skip("port went away: ", err)
	}
	defer both.Close()
	if l, err := Listen(nil, p); err == nil {
		l.Close()
		t.Error("localhost was bound with both addresses taken")
	}
}

// brokeSocket runs out of file descriptors for a while.
type brokeSocket struct {
	mu     sync.Mutex
	fail   int
	calls  []time.Time
	closed chan struct{}
	once   sync.Once
}

func (s *brokeSocket) AcceptTCP() (*net.TCPConn, error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	fail := s.fail > 0
	s.fail--
	n := s.fail
	s.mu.Unlock()
	switch {
	case fail:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	case n == -1:
		return nil, nil //nolint:nilnil // a connection, for a handler that does not look
	}
	<-s.closed
	return nil, net.ErrClosed
}

func (s *brokeSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func TestAcceptSurvivesRunningOutOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &brokeSocket{fail: 20, closed: make(chan struct{})}
		l := &Listener{sockets: []socket{s}}
		ctx, cancel := context.WithCancel(t.Context())
		var accepted, told atomic.Int32
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.serve(ctx, func(*net.TCPConn) { accepted.Add(1) }, func(error) { told.Add(1) })
		}()
		time.Sleep(time.Minute)
		if accepted.Load() != 1 {
			t.Errorf("%d connections accepted after the descriptors came back", accepted.Load())
		}
		if told.Load() != 1 {
			t.Errorf("told %d times of one row of errors", told.Load())
		}
		synctest.Wait()
		for i := 1; i <= 20; i++ {
			if gap := s.calls[i].Sub(s.calls[i-1]); gap < acceptPauseMin || gap > acceptPauseMax {
				t.Errorf("pause %d is %v", i, gap)
			}
		}
		cancel()
		<-ended
	})
}

func TestServeEndsWhenClosedFromOutside(t *testing.T) {
	l, err := Listen([]string{"127.0.0.1"}, Ports{Remote: 80})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); l.serve(t.Context(), func(*net.TCPConn) {}, nil) }()
	l.Close()
	<-ended
}

func FuzzParseAddresses(f *testing.F) {
	for _, s := range []string{"", "localhost", "127.0.0.1,localhost", "::1", "fe80::1%lo", "::ffff:1.2.3.4,1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseAddresses(strings.Split(s, ","))
		if err != nil {
			return
		}
		if len(list) == 0 {
			t.Fatalf("parseAddresses(%q) listens nowhere", s)
		}
		seen := make(map[netip.Addr]bool)
		for _, a := range list {
			if !a.ip.IsValid() || seen[a.ip] {
				t.Fatalf("parseAddresses(%q) = %v", s, list)
			}
			seen[a.ip] = true
		}
	})
}
