//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

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
		"refused: what listens on a node's localhost is seldom meant for users, and agents are not on their node's network"})
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
	return s.connected(ctx, pod, []int{port}, func(f *forwarding, conn *net.TCPConn) error {
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
	})
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
