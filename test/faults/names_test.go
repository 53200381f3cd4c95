//go:build linux

package faults

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	relayName = "relay.culvert.test"
	silent    = -1 // no answer at all
)

// names is a name server that knows the relay and may be told to do otherwise.
// Agents and users find the relay by its name only.
type names struct {
	conf  string       // resolv.conf
	rcode atomic.Int32 // what it answers, or silent
	addr  [4]byte
	on    bool
}

// wrap gives a daemon on a node the name of the relay.
func (n *names) wrap(host string, command lab.Command) lab.Command {
	if host == "relay" || !n.on {
		return command
	}
	args := slices.Clone(command.Args)
	args[slices.Index(args, "--relay")+1] = relayName + ":7443"
	command.Args = args
	return n.asks(command)
}

// asks has a program ask this name server, which only it sees in its resolv.conf.
func (n *names) asks(command lab.Command) lab.Command {
	command.Args = append([]string{
		"--mount", "--", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, n.conf, command.Path,
	}, command.Args...)
	command.Path = "unshare"
	return command
}

// take starts the name server, and everybody anew with the name.
func (n *names) take(t *testing.T, r *rig) {
	t.Helper()
	n.addr = r.Relay.Host.Addr().As4()
	n.conf = filepath.Join(t.TempDir(), "resolv.conf")
	text := "nameserver " + r.Relay.Host.Addr().String() + "\noptions timeout:1 attempts:2\n"
	must(t, os.WriteFile(n.conf, []byte(text), 0o644))
	n.serve(t, r.Relay.Host)
	n.on = true
	r.quiet(t)
	for _, node := range nodes() {
		must(t, r.Agents[node].Stop(patience))
		must(t, r.Agents[node].Start(t.Context()))
		for _, u := range r.users {
			f := u.forwards[node]
			must(t, f.Stop(patience))
			f.command.Env = append(f.command.Env, "CULVERT_RELAY="+relayName)
			f.prefix = n.asks
			must(t, f.start())
		}
	}
	r.awaitService(t, r.flows(everybody))
	r.quiet(t)
	r.noteHoldings(t)
	r.load.Resume()
}

// serve answers until the test ends.
func (n *names) serve(t *testing.T, on *lab.Host) {
	t.Helper()
	var conn net.PacketConn
	must(t, on.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", on.Addr().String()+":53")
		return err
	}))
	done := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	go func() { // waited for above
		defer close(done)
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := n.answer(buf[:size]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
}

func (n *names) answer(query []byte) []byte {
	var m dnsmessage.Message
	rcode := n.rcode.Load()
	if m.Unpack(query) != nil || len(m.Questions) != 1 || rcode == silent {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Authoritative, m.RCode, m.Additionals = true, true, dnsmessage.RCode(rcode), nil
	if q.Type == dnsmessage.TypeA && q.Name.String() == relayName+"." && m.RCode == dnsmessage.RCodeSuccess {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: n.addr},
		}}
	}
	text, err := m.Pack()
	if err != nil {
		return nil
	}
	return text
}

func (n *names) faults() []fault {
	say := func(rcode int32) func(*testing.T, *rig) {
		return func(*testing.T, *rig) { n.rcode.Store(rcode) }
	}
	const long = 8 * time.Second // agents look every five
	return []fault{
		{where: "DNS", what: "no answers for 8 s", lasts: long, begin: say(silent), end: say(0)},
		{where: "DNS", what: "SERVFAIL for 8 s", lasts: long, begin: say(int32(dnsmessage.RCodeServerFailure)), end: say(0)},
		{where: "DNS", what: "NXDOMAIN for 8 s", lasts: long, begin: say(int32(dnsmessage.RCodeNameError)), end: say(0)},
		{
			where: "DNS", what: "no answers for 3 s while the relay is killed and started", hits: everybody, lasts: longTime, end: say(0),
			begin: func(t *testing.T, r *rig) {
				n.rcode.Store(silent)
				r.Relay.Process.Kill()
				must(t, r.Relay.Start(t.Context()))
			},
		},
	}
}
