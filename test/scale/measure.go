package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/connect"
	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
	"github.com/culvert-k8s/culvert/proto/stream"
	"github.com/culvert-k8s/culvert/test/pki"
)

// What -measure said, in bytes; docs/decisions/0018 says when and on what.
const (
	measuredTunnel = 140 << 10
	measuredStream = 22 << 10
)

const (
	// few and many are between what the cost of one is read off.
	few, many = 500, 3000
	// more streams, since the first ones fit into what the handshakes left over.
	fewStreams, manyStreams = 3000, 10000
	// settle is what a process is given to give back what it needs no more.
	settle = 20 * time.Second
)

// measureRelay starts a real relay, lets agents come and then streams, and says how
// much its memory grew for each. The other ends are this process.
func measureRelay(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "scale")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ca, err := authority(dir)
	if err != nil {
		return err
	}
	relay, addr, err := startRelay(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { _ = relay.Process.Kill(); _ = relay.Wait() }()
	f := &fleet{ca: ca, pool: ca.Pool(), addr: addr}
	defer f.end()
	at := make(map[string]int)
	for _, step := range []struct {
		name string
		do   func(context.Context, int) error
		to   int
	}{{"few tunnels", f.tunnels, few}, {"many tunnels", f.tunnels, many}, {"few streams", f.streams, fewStreams}, {"many streams", f.streams, manyStreams}} {
		if err := step.do(ctx, step.to); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if !connect.Sleep(ctx, settle) {
			return ctx.Err()
		}
		if at[step.name], err = resident(relay.Process.Pid); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s: %d MiB\n", step.name, at[step.name]>>20)
	}
	fmt.Fprintf(w, "a tunnel: %d KiB\na stream: %d KiB\n",
		(at["many tunnels"]-at["few tunnels"])/(many-few)>>10, (at["many streams"]-at["few streams"])/(manyStreams-fewStreams)>>10)
	return nil
}

var listens = regexp.MustCompile(`relay listens" addr=\S*?:(\d+) `)

// startRelay builds a relay and starts it.
func startRelay(ctx context.Context, dir string) (*exec.Cmd, string, error) {
	program := filepath.Join(dir, "culvert-relay")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/culvert-relay").CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("build: %w\n%s", err, out)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	cmd := exec.CommandContext(ctx, program, "serve", "--listen", "127.0.0.1:0", "--health-listen", "",
		"--tls-cert", file("relay.pem"), "--tls-key", file("relay.key"), "--agent-ca", file("ca.pem"), "--client-ca", file("ca.pem"))
	var log safeBuffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	for range 200 {
		if m := listens.FindStringSubmatch(log.String()); m != nil {
			return cmd, "127.0.0.1:" + m[1], nil
		}
		if !connect.Sleep(ctx, 50*time.Millisecond) {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return nil, "", fmt.Errorf("the relay does not listen: %s", log.String())
}

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// authority makes one, and writes ca.pem, relay.pem and relay.key to a directory.
func authority(dir string) (*pki.Authority, error) {
	ca, err := pki.New("scale")
	if err != nil {
		return nil, err
	}
	relay, err := ca.Server(nil, net.IPv4(127, 0, 0, 1))
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	return ca, errors.Join(pki.Write(file("ca.pem"), file("ca.key"), ca.Certificate), pki.Write(file("relay.pem"), file("relay.key"), relay))
}

// fleet are agents that have one pod each, and streams to them.
type fleet struct {
	ca   *pki.Authority
	pool *x509.CertPool
	addr string

	mu     sync.Mutex
	agents []*tunnel.Session
	users  []*tunnel.Session
	open   []*tunnel.Stream
	ends   sync.WaitGroup
}

func (f *fleet) dial(ctx context.Context, name, organization, alpn string) (*tunnel.Session, error) {
	cert, err := f.ca.Person(name, organization)
	if err != nil {
		return nil, err
	}
	d := connect.Dialer{TLS: &tls.Config{RootCAs: f.pool, Certificates: []tls.Certificate{cert}}, ALPN: alpn}
	return d.Dial(ctx, f.addr)
}

// tunnels has so many agents in all.
func (f *fleet) tunnels(ctx context.Context, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := len(f.agents); i < n; i++ {
		g.Go(func() error { return f.agent(ctx, "node-"+strconv.Itoa(i)) })
	}
	return g.Wait()
}

// agent registers one, which accepts every stream and then says nothing.
func (f *fleet) agent(ctx context.Context, name string) error {
	sess, err := f.dial(ctx, name, "culvert:nodes", stream.ALPNAgent)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.agents = append(f.agents, sess)
	f.mu.Unlock()
	cc, err := connect.Control(sess)
	if err != nil {
		return err
	}
	call, err := controlv1.NewRegistryClient(cc).Attend(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	pod := &controlv1.Pod{Namespace: "default", Name: name, Uid: name}
	for _, m := range []*controlv1.AttendRequest{
		{Kind: &controlv1.AttendRequest_Register{Register: &controlv1.Register{Node: name, Instance: "1"}}},
		{Kind: &controlv1.AttendRequest_Pods{Pods: &controlv1.PodChanges{Full: true, Upsert: []*controlv1.Pod{pod}}}},
	} {
		if err := call.Send(m); err != nil {
			return err
		}
	}
	if _, err := call.Recv(); err != nil {
		return err
	}
	f.ends.Go(func() {
		_ = sess.Serve(context.Background(), func(st *tunnel.Stream) {
			if _, err := stream.ReadOpen(st); err == nil && stream.WriteReply(st, &stream.Reply{Version: stream.Version}) == nil {
				_, _ = io.Copy(io.Discard, st)
			}
			_ = st.Close()
		})
		_ = cc.Close()
	})
	return nil
}

// streams has so many open in all, some to each agent, a thousand on each session.
func (f *fleet) streams(ctx context.Context, n int) error {
	for i := len(f.open); i < n; i++ {
		if i/1000 >= len(f.users) {
			sess, err := f.dial(ctx, "alice", "devs", stream.ALPNClient)
			if err != nil {
				return err
			}
			f.users = append(f.users, sess)
		}
		st, err := connect.Open(ctx, f.users[i/1000], &stream.Open{
			Kind: stream.KindForward, ID: stream.NewID(), Namespace: "default", Pod: "node-" + strconv.Itoa(i%many), Port: 80,
		})
		if err != nil {
			return err
		}
		reply, err := stream.ReadReply(st)
		if err = errors.Join(err, reply.Err()); err != nil {
			return err
		}
		f.open = append(f.open, st)
	}
	return nil
}

func (f *fleet) end() {
	for _, s := range append(f.users, f.agents...) {
		_ = s.Close()
	}
	f.ends.Wait()
}

var rss = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// resident returns the memory of a process, in bytes.
func resident(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := rss.FindSubmatch(text)
	if m == nil {
		return 0, errors.New("no VmRSS in " + string(text))
	}
	n, err := strconv.Atoi(string(m[1]))
	return n << 10, err
}
