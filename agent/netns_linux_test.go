package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/reach/reachtest"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward"
	"github.com/culvert-k8s/culvert/forward/forwardtest"
	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/netns/netnstest"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// TestNetnsConn runs the suite of connections over sockets in another namespace.
func TestNetnsConn(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0").(*net.TCPListener)
	d := &reach.NetnsDialer{}
	pod := sandbox.Pod{NetNS: ns.Path()}
	mk := func(wrap func(forward.Conn) forward.Conn) func() (a, b forward.Conn, stop func(), err error) {
		return func() (forward.Conn, forward.Conn, func(), error) {
			near, err := d.DialPod(t.Context(), pod, portOf(l))
			if err != nil {
				return nil, nil, nil, err
			}
			far, err := l.AcceptTCP()
			if err != nil {
				return nil, nil, nil, err
			}
			return wrap(forward.TCP(near)), forward.TCP(far), nil, nil
		}
	}
	bare := mk(func(c forward.Conn) forward.Conn { return c })
	forwardtest.TestConn(t, bare)
	forwardtest.TestErrReset(t, bare)
	t.Run("wrapped", func(t *testing.T) { forwardtest.TestConn(t, mk(wrapPod)) })
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

// node is an agent with real pods: named namespaces in a directory of its own.
type node struct {
	*running
	link *link
	dir  string
	pods *sandbox.Named
}

func startNode(t *testing.T, to way, policy reach.Policy, patience time.Duration) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to enter a network namespace")
	}
	n := &node{dir: t.TempDir()}
	n.pods = sandbox.NewNamed(sandbox.NamedConfig{Dir: n.dir})
	r := startRelay(t, &relay{})
	n.running = start(t, Config{OpenTimeout: patience, Pods: to(t, &reach.Local{Source: n.pods, Dialer: &reach.NetnsDialer{}, Policy: policy})}, r)
	n.link = r.tunnel(t, 1)
	return n
}

// uid waits until the agent knows a pod of this name, other than not.
func (n *node) uid(t *testing.T, name, not string) (uid string) {
	t.Helper()
	eventually(t, "pod "+name+" is known", func() bool {
		for _, p := range n.pods.List() {
			if p.Name == name && p.UID != not {
				uid = p.UID
			}
		}
		return uid != ""
	})
	return uid
}

// code asks for a stream that must be refused.
func (n *node) code(t *testing.T, uid string, port uint16) stream.Code {
	t.Helper()
	_, err := n.link.open(t, stream.Open{UID: uid, Port: port})
	if err == nil {
		t.Error("the stream was not refused")
	}
	if strings.Contains(fmt.Sprint(err), n.dir) {
		t.Errorf("the client is told a path: %v", err)
	}
	return stream.CodeOf(err)
}

// TestPods reaches real pods: refused, reached over IPv6 only, half-closed, gone,
// and born again under the same name.
func TestPods(t *testing.T) { bothWays(t, testPods) }

func testPods(t *testing.T, to way) {
	n := startNode(t, to, reach.Policy{}, 0)
	web := netnstest.NewAt(t, filepath.Join(n.dir, "web"))
	uid := n.uid(t, "web", "")

	// A decoy on the agent's own loopback has the port that is asked for.
	decoy := reachtest.Listen(t)
	if code := n.code(t, uid, portOf(decoy)); code != stream.NotListening {
		t.Errorf("a port where nothing listens: %s", code)
	}
	if code := n.code(t, "no-such-uid", 80); code != stream.WrongNode {
		t.Errorf("a pod that is not here: %s", code)
	}

	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l := web.Listen("tcp", addr).(*net.TCPListener)
		client, err := n.link.open(t, stream.Open{UID: uid, Port: portOf(l)})
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		pod := reachtest.Accept(t, l)
		if _, err := io.WriteString(client, "question"); err != nil {
			t.Fatal(err)
		}
		client.CloseWrite()
		if got, err := io.ReadAll(pod); string(got) != "question" || err != nil {
			t.Errorf("%s: pod reads %q, %v", addr, got, err)
		}
		io.WriteString(pod, "answer")
		pod.CloseWrite()
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Errorf("%s: client reads %q, %v", addr, got, err)
		}
	}

	l := web.Listen("tcp4", "127.0.0.1:0").(*net.TCPListener)
	port := portOf(l)
	client, err := n.link.open(t, stream.Open{UID: uid, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	pod := reachtest.Accept(t, l)
	client.Reset(nil)
	if got, err := io.Copy(io.Discard, pod); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("pod reads %d, %v after an abort; want %v", got, err, syscall.ECONNRESET)
	}

	web.Delete()
	if code := n.code(t, uid, port); code != stream.WrongNode {
		t.Errorf("a pod that is gone: %s", code)
	}
	again := netnstest.NewAt(t, filepath.Join(n.dir, "web"))
	reborn := n.uid(t, "web", uid)
	var fresh net.Listener
	again.Do(func() { fresh, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)) })
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if code := n.code(t, uid, port); code != stream.WrongNode {
		t.Errorf("the old pod after its name was taken again: %s", code)
	}
	if _, err := n.link.open(t, stream.Open{UID: reborn, Port: port}); err != nil {
		t.Errorf("the new pod: %v", err)
	}
}

// TestPodGoneWhileDialled dials a pod that does not accept, and removes it.
func TestPodGoneWhileDialled(t *testing.T) { bothWays(t, testPodGoneWhileDialled) }

func testPodGoneWhileDialled(t *testing.T, to way) {
	n := startNode(t, to, reach.Policy{}, 10*limit)
	web := netnstest.NewAt(t, filepath.Join(n.dir, "web"))
	port := full(t, web)
	waiting := dialling(t, web)
	uid := n.uid(t, "web", "")
	eventually(t, "the agent has seen the pod", func() bool {
		n.podsMu.Lock()
		defer n.podsMu.Unlock()
		return n.podsListed[uid]
	})
	refused := make(chan error, 1)
	go func() {
		_, err := n.link.open(t, stream.Open{UID: uid, Port: port})
		refused <- err
	}()
	eventually(t, "the pod is dialled", func() bool { return dialling(t, web) > waiting })
	web.Delete()
	if err := <-refused; !errors.Is(err, &stream.Error{Code: stream.NamespaceGone}) || stream.TextOf(err) != "the pod is gone" {
		t.Errorf("refused with %v", err)
	}
	if line := n.log.wait(t, "stream", 1)[0]; line["code"] != "namespace-gone" {
		t.Errorf("log: %v", line)
	}
}

// dialling returns how many connections of a namespace wait for an answer.
func dialling(t *testing.T, ns *netnstest.NS) int {
	t.Helper()
	var table []byte
	var err error
	ns.Do(func() { table, err = os.ReadFile("/proc/thread-self/net/tcp") })
	if err != nil {
		t.Fatal(err)
	}
	const synSent = " 02 "
	return strings.Count(string(table), synSent)
}

// full listens in a namespace and has no room for another connection: whoever dials
// waits.
func full(t *testing.T, ns *netnstest.NS) (port uint16) {
	t.Helper()
	var fd int
	var err error
	ns.Do(func() {
		if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		if err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
			err = syscall.Listen(fd, 0)
		}
		if at, aerr := syscall.Getsockname(fd); aerr == nil {
			port = uint16(at.(*syscall.SockaddrInet4).Port)
		}
		for range 4 { // one or two find room
			c, cerr := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
			if cerr != nil {
				err = cerr
				return
			}
			_ = syscall.Connect(c, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(port)})
			t.Cleanup(func() { _ = syscall.Close(c) })
		}
	})
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestPodKilled ends the pod's side as a dying process does, with data unread.
func TestPodKilled(t *testing.T) { bothWays(t, testPodKilled) }

func testPodKilled(t *testing.T, to way) {
	n := startNode(t, to, reach.Policy{}, 0)
	web := netnstest.NewAt(t, filepath.Join(n.dir, "web"))
	l := web.Listen("tcp4", "127.0.0.1:0").(*net.TCPListener)
	client, err := n.link.open(t, stream.Open{UID: n.uid(t, "web", ""), Port: portOf(l)})
	if err != nil {
		t.Fatal(err)
	}
	pod := reachtest.Accept(t, l)
	if _, err := io.WriteString(client, "unread"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(pod, make([]byte, 1)); err != nil { // the rest is there as well
		t.Fatal(err)
	}
	pod.Close()
	if got, err := io.ReadAll(client); !errors.Is(err, &stream.Error{Code: stream.PodReset}) || len(got) > 0 {
		t.Errorf("client reads %q, %v", got, err)
	}
	if line := n.log.wait(t, "stream", 1)[0]; line["code"] != "pod-reset" || line["pod"] != "default/web" {
		t.Errorf("log: %v", line)
	}
}

// TestNamespaceGone finds a pod that is gone before it can be dialled.
func TestNamespaceGone(t *testing.T) {
	ns := netnstest.New(t)
	l := ns.Listen("tcp4", "127.0.0.1:0")
	ns.Delete()
	_, _, err := local(&reach.NetnsDialer{}, sandbox.Pod{UID: "gone", NetNS: ns.Path()}).Connect(t.Context(), "gone", portOf(l))
	if !errors.Is(err, netns.ErrGone) {
		t.Fatalf("dial: %v", err)
	}
	if code := stream.CodeOf(err); code != stream.NamespaceGone {
		t.Errorf("code %s", code)
	}
}

// TestHostNetwork reaches the agent's own loopback only if that is allowed, and
// never for a pod that has a namespace of its own.
func TestHostNetwork(t *testing.T) { bothWays(t, testHostNetwork) }

func testHostNetwork(t *testing.T, to way) {
	l := reachtest.Listen(t)
	host := reachtest.NewPods(
		sandbox.Pod{Namespace: "infra", Name: "host", UID: "uid-host", HostNetwork: true},
		sandbox.Pod{Namespace: "infra", Name: "odd", UID: "uid-odd", NetNS: "/proc/self/ns/net"},
	)
	for _, allow := range []bool{false, true} {
		t.Run(fmt.Sprintf("allowed %v", allow), func(t *testing.T) {
			r := startRelay(t, &relay{})
			start(t, Config{Pods: to(t, &reach.Local{Source: host, Dialer: &reach.NetnsDialer{}, Policy: reach.Policy{AllowHostNetwork: allow}})}, r)
			k := r.tunnel(t, 1)
			client, err := k.open(t, stream.Open{UID: "uid-host", Port: portOf(l)})
			if allow {
				if err != nil {
					t.Fatal(err)
				}
				reachtest.Accept(t, l).Close()
				if got, err := io.ReadAll(client); len(got) > 0 || err != nil {
					t.Errorf("client reads %q, %v", got, err)
				}
			} else if !errors.Is(err, &stream.Error{Code: stream.Policy}) {
				t.Errorf("host network: %v", err)
			}
			if _, err := k.open(t, stream.Open{UID: "uid-odd", Port: portOf(l)}); !errors.Is(err, &stream.Error{Code: stream.Policy}) {
				t.Errorf("a pod in the agent's namespace: %v", err)
			}
		})
	}
}

// TestBadRelay asks as a relay does that was broken into: for pods that are not here,
// refused or none of its business, by every word that the wire has. Nothing of it
// reaches anything, and least of all the agent's own localhost.
func TestBadRelay(t *testing.T) { bothWays(t, testBadRelay) }

func testBadRelay(t *testing.T, to way) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to enter a network namespace")
	}
	web := netnstest.New(t)
	open := web.Listen("tcp4", "127.0.0.1:0").(*net.TCPListener)
	shut := web.Listen("tcp4", "127.0.0.1:0").(*net.TCPListener)
	decoy := reachtest.Listen(t)
	var lured atomic.Int32
	trap := make(chan struct{})
	for _, l := range []*net.TCPListener{decoy, shut} {
		go func() {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					trap <- struct{}{}
					return
				}
				lured.Add(1)
				c.Close()
			}
		}()
	}
	pod := func(namespace, name, netns string) sandbox.Pod {
		return sandbox.Pod{Namespace: namespace, Name: name, UID: "uid-" + name, NetNS: netns, HostNetwork: netns == ""}
	}
	r := startRelay(t, &relay{})
	start(t, Config{Pods: to(t, &reach.Local{
		Source: reachtest.NewPods(
			pod("shop", "web", web.Path()), pod("kube-system", "dns", web.Path()), pod("shop", "host", ""), pod("shop", "odd", "/proc/self/ns/net"),
		),
		Dialer: &reach.NetnsDialer{},
		Policy: reach.Policy{DenyNamespaces: []string{"kube-system"}, DenyPorts: []reach.PortRange{{From: portOf(shut), To: portOf(shut)}}},
	})}, r)
	k := r.tunnel(t, 1)
	for name, tt := range map[string]struct {
		ask  stream.Open
		code stream.Code
	}{
		"pod of another node":         {stream.Open{UID: "uid-elsewhere", Port: portOf(decoy)}, stream.WrongNode},
		"pod by its name":             {stream.Open{Namespace: "shop", Pod: "web", UID: "web", Port: portOf(open)}, stream.WrongNode},
		"address for a UID":           {stream.Open{UID: "127.0.0.1", Port: portOf(decoy)}, stream.WrongNode},
		"path for a UID":              {stream.Open{UID: "../../proc/self/ns/net", Port: portOf(decoy)}, stream.WrongNode},
		"refused namespace":           {stream.Open{UID: "uid-dns", Port: portOf(open)}, stream.Policy},
		"refused namespace, renamed":  {stream.Open{Namespace: "shop", Pod: "web", UID: "uid-dns", Port: portOf(open)}, stream.Policy},
		"refused port":                {stream.Open{UID: "uid-web", Port: portOf(shut)}, stream.Policy},
		"refused port, as an admin":   {stream.Open{UID: "uid-web", Port: portOf(shut), User: "system:admin"}, stream.Policy},
		"host network":                {stream.Open{UID: "uid-host", Port: portOf(decoy)}, stream.Policy},
		"the agent's own namespace":   {stream.Open{UID: "uid-odd", Port: portOf(decoy)}, stream.Policy},
		"port that only the node has": {stream.Open{UID: "uid-web", Port: portOf(decoy)}, stream.NotListening},
	} {
		if _, err := k.open(t, tt.ask); stream.CodeOf(err) != tt.code || err == nil {
			t.Errorf("%s: %v, want %s", name, err, tt.code)
		}
	}
	if _, err := k.open(t, stream.Open{UID: "uid-web", Port: portOf(open)}); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
	decoy.Close()
	shut.Close()
	<-trap
	<-trap
	if n := lured.Load(); n > 0 {
		t.Errorf("%d connections came where none may", n)
	}
}
