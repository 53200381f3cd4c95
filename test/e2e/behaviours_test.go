//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/test/cluster"
)

// Ports of the pods that are tried.
const (
	portWant   = 8001 // tester that wants abc
	portFirst  = 8002 // tester that speaks first
	portLate   = 8003 // answers three seconds after the client has finished
	portReset  = 8005 // resets after 4 bytes
	portSource = 8006 // sends 64 MiB
	portSink   = 8007 // answers size and hash
	portStall  = 8008 // never reads
	portSix    = 8009 // echo on ::1 only
	portEcho   = 8011
	portHTTP   = 8080
	portNobody = 8999
	portHost   = 18011 // echo on the localhost of node1, by the pod host
)

const sourceSize = 64 << 20

// scene is what a behaviour has to work with.
type scene struct {
	way
	id      string // to tell what scenes make
	cluster *cluster.Cluster
	pod     string // pod/NAME with all ports on its localhost
	open    string // the same on 0.0.0.0
	logs    func(ctx context.Context, pod string) (string, error)
}

// behaviour is a row of the table.
type behaviour struct {
	name string
	try  func(ctx context.Context, s *scene) error
	want func(w way) verdict
	note string
}

// verdict is what is known of a behaviour on a way. A test holds it.
type verdict int

const (
	works  verdict = iota
	fails          // always
	varies         // depends on who is faster
)

// stock says that the stock path does not do it, notNative that only culvert does.
func stock(w way) verdict     { return failsIf(!w.culvert) }
func notNative(w way) verdict { return failsIf(!w.native) }
func everywhere(way) verdict  { return works }

func failsIf(known bool) verdict {
	if known {
		return fails
	}
	return works
}

// refusedByUs says that Culvert does not want to do it.
func refusedByUs(w way) verdict { return failsIf(w.culvert) }

// oldStock is what kubectl before 1.32 does not always do.
func oldStock(w way) verdict {
	if w.old {
		return varies
	}
	return works
}

// upstream are Kubernetes' own end-to-end tests of port-forward.
func upstream() []behaviour {
	var list []behaviour
	for _, where := range []struct {
		name string
		pod  func(s *scene) string
	}{
		{"pod listens on 0.0.0.0", func(s *scene) string { return s.open }},
		{"pod listens on localhost", func(s *scene) string { return s.pod }},
	} {
		list = append(list,
			behaviour{where.name + ": a client that sends nothing and leaves is seen to leave", func(ctx context.Context, s *scene) error {
				return s.leaves(ctx, where.pod(s))
			}, everywhere, ""},
			behaviour{where.name + ": the client sends, the pod answers and finishes", func(ctx context.Context, s *scene) error {
				return s.tested(ctx, where.pod(s), portWant, "abc")
			}, everywhere, ""},
			behaviour{where.name + ": the pod speaks first and finishes", func(ctx context.Context, s *scene) error {
				return s.tested(ctx, where.pod(s), portFirst, "")
			}, everywhere, ""})
	}
	list = append(list, behaviour{"a pod with host networking", hostNetwork, refusedByUs,
		"refused: what listens on a node's localhost is seldom meant for users; the chart's agent.policy.allowHostNetwork allows it"})
	return append(list, behaviour{"a client that leaves in the middle of a download does not disturb the next", abandons, oldStock, "kubectl before 1.32 may stop reading its session"})
}

// leaves connects and closes, and waits for the pod to say so.
func (s *scene) leaves(ctx context.Context, pod string) error {
	const line = "Expected to read 3 bytes from client, but got 0 instead"
	before, err := s.logs(ctx, pod)
	if err != nil {
		return err
	}
	f, err := s.forward(ctx, pod, portWant)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	conn.Close()
	return s.awaitLog(ctx, pod, line, strings.Count(before, line)+1)
}

// awaitLog waits until a line was printed that often.
func (s *scene) awaitLog(ctx context.Context, pod, line string, times int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		text, err := s.logs(ctx, pod)
		if err == nil && strings.Count(text, line) >= times {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the pod has not said %q: %w", line, errors.Join(err, ctx.Err()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tested speaks with the tester as Kubernetes' tests do.
func (s *scene) tested(ctx context.Context, pod string, port int, send string) error {
	f, err := s.forward(ctx, pod, port)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, send); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if string(got) != strings.Repeat("x", 100) {
		return fmt.Errorf("read %q", got)
	}
	return nil
}

func hostNetwork(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, "pod/host", portHost)
	if err != nil {
		return err
	}
	defer f.Kill()
	return f.serves(ctx, 0)
}

// abandons reads one byte of a download and closes.
func abandons(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portSource, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.ReadFull(conn, make([]byte, 1))
	conn.Close()
	if err != nil {
		return err
	}
	return f.serves(ctx, 1)
}

// gaps are what no test of Kubernetes looks at.
func gaps() []behaviour {
	return []behaviour{
		{"an answer that comes 3 s after the client has finished sending arrives", lateAnswer, stock, "the stock path gives an answer one second"},
		{"a refused port ends that connection only", refused, stock, "kubectl ends at the first message on an error stream"},
		{"a connection that the pod resets ends alone", podResets, stock, "the same"},
		{"a client that stops reading does not stop the others", stalledReader, notNative, "SPDY has no flow control: kubectl itself reads nothing more"},
		{"a pod that does not read what it is sent holds the others up for a minute at most", stalledPod, stock, "SPDY has no flow control in this direction either"},
		{"idle for 45 s, then data", idle, everywhere, ""},
		{"a pod that listens on ::1 only", sixOnly, everywhere, ""},
		{"100 connections at once", crowd, everywhere, ""},
		{"64 MiB down, every byte right", download, everywhere, ""},
		{"64 MiB up, every byte right", upload, everywhere, ""},
	}
}

func lateAnswer(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portLate)
	if err != nil {
		return err
	}
	defer f.Kill()
	answer, err := f.ask(ctx, 0, "question", patience)
	if err != nil {
		return err
	}
	if answer != "late answer to 8 bytes\n" {
		return fmt.Errorf("the answer is %q", answer)
	}
	return nil
}

func refused(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portNobody, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	return f.survives(ctx, func(conn *net.TCPConn) error { return ends(conn, prompt) })
}

func podResets(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portReset, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	return f.survives(ctx, func(conn *net.TCPConn) error {
		_, _ = io.WriteString(conn, "12345678")
		return ends(conn, prompt)
	})
}

// survives claims that connections to the first port end as they should, and that
// one to the second, open all the time, and new ones stay well.
func (f *forwarding) survives(ctx context.Context, disturb func(conn *net.TCPConn) error) error {
	witness, err := f.dial(ctx, 1)
	if err != nil {
		return err
	}
	defer witness.Close()
	if err := exchange(witness, "before", patience); err != nil {
		return err
	}
	for range 3 {
		conn, err := f.dial(ctx, 0)
		if err != nil {
			return err
		}
		err = disturb(conn)
		conn.Close()
		if err != nil {
			return err
		}
	}
	if err := exchange(witness, "after", prompt); err != nil {
		return fmt.Errorf("a connection beside it: %w", err)
	}
	return f.serves(ctx, 1)
}

func stalledReader(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portSource, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // until everything on the way is full
	return f.serves(ctx, 1)
}

func stalledPod(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portStall, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	witness, err := f.dial(ctx, 1)
	if err != nil {
		return err
	}
	defer witness.Close()
	if err := exchange(witness, "before", patience); err != nil {
		return err
	}
	_, _ = conn.Write(make([]byte, 16<<20)) // or as much as goes in
	if err := exchange(witness, "after", time.Minute); err != nil {
		return err
	}
	for began := time.Now(); ; {
		if err := f.serves(ctx, 1); err == nil || time.Since(began) > time.Minute {
			return err
		}
	}
}

func idle(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := exchange(conn, "before", patience); err != nil {
		return err
	}
	select {
	case <-time.After(45 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := exchange(conn, "after", prompt); err != nil {
		return err
	}
	return f.serves(ctx, 0)
}

func sixOnly(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portSix)
	if err != nil {
		return err
	}
	defer f.Kill()
	return f.serves(ctx, 0)
}

func crowd(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	var all errgroup.Group
	for i := range 100 {
		all.Go(func() error {
			conn, err := f.dial(ctx, 0)
			if err != nil {
				return err
			}
			defer conn.Close()
			for j := range 10 {
				if err := exchange(conn, fmt.Sprintf("%d of %d", j, i), patience); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

func download(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portSource)
	if err != nil {
		return err
	}
	defer f.Kill()
	conn, err := f.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, conn)
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if err := pattern(want, sourceSize); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("%d bytes of %d, not the right ones", n, sourceSize)
	}
	return nil
}

// upload goes over HTTP, whose bodies have a length: the stock path does not tell
// a pod that the client has finished.
func upload(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portHTTP)
	if err != nil {
		return err
	}
	defer f.Kill()
	var content bytes.Buffer
	if err := pattern(&content, sourceSize); err != nil {
		return err
	}
	want := fmt.Sprintf("%d %x\n", sourceSize, sha256.Sum256(content.Bytes()))
	client := &http.Client{Timeout: 2 * patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return f.dial(ctx, 0) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://pod/sha256", &content)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if string(answer) != want {
		return fmt.Errorf("answer %q, want %q", answer, want)
	}
	return nil
}

// pattern writes what podserver's source sends: every eight bytes are their own
// offset.
func pattern(w io.Writer, size int) error {
	var group [8]byte
	buffered := bufio.NewWriterSize(w, 64<<10)
	for offset := 0; offset < size; offset += len(group) {
		binary.BigEndian.PutUint64(group[:], uint64(offset))
		if _, err := buffered.Write(group[:]); err != nil {
			return err
		}
	}
	return buffered.Flush()
}
