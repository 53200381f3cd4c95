//go:build linux

package script

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/test/lab"
)

// pod is: pod NODE NAME [PODSERVER-ARG...]. It makes a pod, starts podserver in
// it if there are arguments, and waits until the relay knows the pod.
func (s *script) pod(_ *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage(args)
	}
	host, err := s.host(args[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	pod, err := host.Pod(ctx, args[1])
	if err != nil {
		return err
	}
	if len(args) > 2 {
		if err := pod.Serve(s.cluster.Binaries.PodServer, append([]string{"-name", args[1]}, args[2:]...)...); err != nil {
			return err
		}
	}
	return s.awaitPods(args[0])
}

// awaitPods waits until the relay knows the pods of a node as they are. A node
// without a running agent is not waited for.
func (s *script) awaitPods(node string) error {
	agent := s.cluster.Agents[node]
	if agent == nil {
		return nil
	}
	var want []string
	for _, p := range agent.Host.Pods() {
		want = append(want, p.Name())
	}
	slices.Sort(want)
	return s.await(agent.Process, func(ctx context.Context) error {
		got, err := s.podsOf(ctx, node)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("the relay knows the pods %q on %s, there are %q", got, node, want)
		}
		return err
	})
}

// podsOf asks the relay for the names of the pods of a node, sorted.
func (s *script) podsOf(ctx context.Context, node string) ([]string, error) {
	text, err := s.cluster.RunCulvert(ctx, "get", "pods", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct{ Name, Node string } `json:"items"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range list.Items {
		if p.Node == node {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// deletePod is: delete-pod NAME. It waits until the relay has noticed.
func (s *script) deletePod(_ *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errUsage(args)
	}
	pod, err := s.findPod(args[0])
	if err != nil {
		return err
	}
	node := pod.Host().Name()
	if err := pod.Delete(); err != nil {
		return err
	}
	return s.awaitPods(node)
}

func (s *script) findPod(name string) (*lab.BarePod, error) {
	if s.cluster != nil {
		for _, h := range s.cluster.Network.Hosts() {
			for _, p := range h.Pods() {
				if p.Name() == name {
					return p, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("there is no pod %s", name)
}

// http is: http ADDRESS PATH. The client host GETs it; the body becomes stdout.
func (s *script) http(ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage(args)
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	began := time.Now()
	status, body, err := s.cluster.Client.HTTPGet(ctx, "http://"+args[0]+args[1])
	if err != nil {
		return err
	}
	ts.Logf("status %d after %v", status, time.Since(began).Round(time.Millisecond))
	if status != 200 {
		return fmt.Errorf("status %d: %s", status, body)
	}
	fmt.Fprint(ts.Stdout(), body)
	return nil
}

// abandon is: abandon N ADDRESS PATH. So many times it begins to GET a long
// answer and breaks off after the first 64 KiB.
func (s *script) abandon(_ *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errUsage(args)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for range n {
		c, err := s.cluster.Client.Dial(s.ctx, args[1])
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: pod\r\n\r\n", args[2])
		if err == nil {
			_, err = io.CopyN(io.Discard, c, 64<<10)
		}
		if err := errors.Join(err, tcpWire{c}.Abort()); err != nil {
			return err
		}
	}
	return nil
}
