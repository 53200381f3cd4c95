package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	// network is Go's name of SOCK_SEQPACKET.
	network = "unixpacket"
	// defaultQuestions is how many questions a client asks at once.
	defaultQuestions = 256
	// spareConns are for followers. Beside the connections on which questions are asked
	// there may be as many that were given up, or are those of an earlier client.
	spareConns = 64
	// maxFollowers bounds connections that are told of all pods. A client has one.
	maxFollowers = 4
	// sendBuffer, in bytes, is small: what is queued holds sockets that nobody counts.
	sendBuffer = 32 << 10
	// acceptPause follows a failure to accept, as for want of descriptors.
	acceptPause = 100 * time.Millisecond
)

// ConnsFor returns the Config.MaxConns that a Client with so many questions needs.
func ConnsFor(questions int) int { return 2*questions + spareConns }

// Server answers the questions of one agent. Make one with New.
type Server struct {
	cfg  Config
	news news
	said *rate.Limiter // lines about peers

	writeTimeout time.Duration // for one message to a client that does not read

	mu    sync.Mutex
	conns map[*net.UnixConn]bool // the value: it follows
	over  bool                   // no more are let in
	left  chan struct{}          // gets a value when the last connection has ended
}

// New makes a server that does nothing yet.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Server{
		cfg: cfg, news: news{trouble: "the broker has only just started", changed: make(chan struct{})}, said: rate.NewLimiter(1, 10), writeTimeout: 5 * time.Second,
		conns: make(map[*net.UnixConn]bool), left: make(chan struct{}, 1),
	}, nil
}

// Serve follows the pods and answers on l, which it closes, until ctx and then
// Linger have ended. It returns when everything it started has ended, with the
// reason if that is not ctx. Call it once.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	hard, stop := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	defer all.Wait()
	defer s.closeAll()
	defer l.Close()
	defer stop()
	pods := make(chan error, 1)
	all.Go(func() { pods <- s.cfg.Pods.Run(hard) })
	all.Go(func() { s.watch(hard) })
	all.Go(func() { s.accept(hard, l, &all) })
	select {
	case <-ctx.Done():
		s.linger()
		return nil
	case err := <-pods:
		return fmt.Errorf("follow pods: %w", err)
	}
}

// linger waits until no client is left.
func (s *Server) linger() {
	limit := time.NewTimer(s.cfg.Linger)
	defer limit.Stop()
	for s.count() > 0 {
		select {
		case <-s.left:
		case <-limit.C:
			return
		}
	}
}

// accept takes connections until l is closed.
func (s *Server) accept(ctx context.Context, l *net.UnixListener, all *sync.WaitGroup) {
	for {
		c, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.complain("cannot accept", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
				return
			}
			continue
		}
		if err := s.admit(c); err != nil {
			_ = c.Close()
			s.complain("peer not let in", err)
			continue
		}
		all.Go(func() {
			defer s.dismiss(c)
			s.converse(ctx, c)
		})
	}
}

// admit lets a peer in that may ask, if there is room.
func (s *Server) admit(c *net.UnixConn) error {
	uid, err := peerUID(c)
	if err != nil {
		return err
	}
	if uid != s.cfg.UID {
		return fmt.Errorf("user %d may not ask, only user %d: start the agent as that user, or the broker with --uid=%d", uid, s.cfg.UID, uid)
	}
	if err := c.SetWriteBuffer(sendBuffer); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return net.ErrClosed
	}
	if len(s.conns) >= s.cfg.MaxConns {
		return fmt.Errorf("there are %d connections already", len(s.conns))
	}
	s.conns[c] = false
	return nil
}

func (s *Server) dismiss(c *net.UnixConn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.conns, c); len(s.conns) == 0 {
		select {
		case s.left <- struct{}{}:
		default: // nobody has looked at the last one yet
		}
	}
}

func (s *Server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// closeAll wakes whoever reads or writes.
func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for c := range s.conns {
		_ = c.Close()
	}
}

// converse answers one question after the other until one end closes.
func (s *Server) converse(ctx context.Context, c *net.UnixConn) {
	in := make([]byte, questionHead+maxUID+1) // a longer one is cut, and still too long
	var out []byte
	for {
		// No buffer for descriptors: the kernel closes those that a peer sends.
		n, err := c.Read(in)
		if err != nil {
			return
		}
		q, err := readQuestion(in[:n])
		switch {
		case err != nil:
			s.complain("peer breaks the protocol", err)
			_ = s.send(c, appendAnswer(out[:0], refusal(err)), nil)
			return
		case q.kind == askFollow:
			s.follow(ctx, c)
			return
		}
		if out, err = s.reply(ctx, c, q, out[:0]); err != nil {
			return
		}
	}
}

// reply answers one question, in a buffer that it returns.
func (s *Server) reply(ctx context.Context, c *net.UnixConn, q question, out []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, min(q.wait, s.cfg.OpenTimeout))
	defer cancel()
	w := watch(c, cancel)
	out, socket := s.find(ctx, q, out)
	if socket != nil {
		defer socket.Close() // the peer has its own by then
	}
	if err := w.end(); err != nil {
		return out, err
	}
	return out, s.send(c, out, socket)
}

// find makes the answer to a question, and the socket that goes with it.
func (s *Server) find(ctx context.Context, q question, out []byte) ([]byte, forward.Socket) {
	if q.kind == askFind {
		pod, denied, err := s.cfg.Pods.Find(ctx, q.uid, q.port)
		a := refusal(errors.Join(err, denied))
		a.pod = pod
		return appendAnswer(out, a), nil
	}
	pod, socket, err := s.cfg.Pods.Open(ctx, q.uid, q.port)
	a := refusal(err)
	a.pod = pod
	s.cfg.Log.Debug("asked", "pod", pod.Namespace+"/"+pod.Name, "uid", q.uid, "port", q.port, "code", a.code.String(), "reason", a.cause)
	return appendAnswer(out, a), socket
}

// refusal is what a client is told of an error; the code 0 of none.
func refusal(err error) answer {
	if err == nil {
		return answer{}
	}
	a := answer{code: stream.CodeOf(err), text: stream.TextOf(err), cause: err.Error()}
	if errors.Is(err, errMalformed) {
		a.code = stream.Malformed
	}
	if a.cause == a.text {
		a.cause = ""
	}
	return a
}

// complain logs what a peer did, if not too much was said of late.
func (s *Server) complain(msg string, err error) {
	if s.said.Allow() {
		s.cfg.Log.Warn(msg, "err", err)
	}
}
