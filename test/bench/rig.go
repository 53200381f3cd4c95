//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/netns"
	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

const (
	relayPort      = 7443
	relayHealth    = "127.0.0.1:7480"
	agentHealth    = "127.0.0.1:7481"
	limitRelayPort = 7600 // the relay in front of the first node; the next port is that of the other
	limitNodePort  = 7602
	kubeletPort    = 10250
)

// route is which of the legs are delayed, and with it which node is used.
type route int

const (
	near  route = iota // none
	far                // that from the client
	beset              // those from the client and to the node; the stock path has no second one
)

// rig is a site with everything on it that is measured.
type rig struct {
	*site
	bin    programs
	dir    string        // for files
	inside *netns.Handle // the client host's network
	dialer netns.Dialer
	debug  bool // relay and agents offer profiles

	relayProc   *lab.Process
	agents      [2]*lab.Process
	limitRelays [2]*lab.Process
	limitNodes  [2]*lab.Process
	legs        []*leg
	legOf       map[string]*leg

	direct, through, throughFar string // kubeconfigs
	serverName                  string // of the API server
}

// newRig starts Culvert and the bare path. The caller closes it.
func newRig(ctx context.Context, s *site, p programs, dir string, debug bool) (*rig, error) {
	r := &rig{site: s, bin: p, dir: dir, debug: debug, legOf: map[string]*leg{}}
	for _, step := range []func(context.Context) error{r.enter, r.startCulvert, r.startLimit, r.startLegs, r.startAgents, r.kubeconfigs} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, r.shut())
		}
	}
	return r, nil
}

// enter opens the client host's network, where all load is made.
func (r *rig) enter(context.Context) error {
	var err error
	r.inside, err = netns.Open(r.client.NetNS())
	return err
}

// shut ends everything, the site last.
func (r *rig) shut() error {
	var errs []error
	if r.inside != nil {
		errs = append(errs, r.inside.Close())
	}
	for _, l := range r.legs {
		errs = append(errs, l.close())
	}
	return errors.Join(append(errs, r.close())...)
}

// addr is an address of a host.
func addr(h *lab.Host, port int) string {
	return net.JoinHostPort(h.Addr().String(), strconv.Itoa(port))
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (r *rig) state(name string) string { return filepath.Join(r.dir, "state-"+name) }

// startCulvert starts the relay, a process on the relay host as that of the bare
// path is. Agents join it with its token, whoever its callers are.
func (r *rig) startCulvert(ctx context.Context) error {
	args := []string{
		"serve", "--listen", ":" + strconv.Itoa(relayPort), "--advertise", addr(r.relay, relayPort), "--state-dir", r.state("relay"),
		"--health-listen", relayHealth, "--log-level", "warn",
	}
	if r.debug {
		args = append(args, "--debug-listen", relayDebug)
	}
	if r.cluster != nil {
		args = append(args, "--kube", "--kube-apiserver", r.cluster.Server(), "--kube-apiserver-ca", r.cluster.CAFile())
	}
	var err error
	r.relayProc, err = r.relay.StartCommand(context.Background(), lab.Command{Path: r.bin.relay, Args: args})
	if err != nil {
		return err
	}
	return ready(ctx, r.relay, r.relayProc, relayHealth)
}

// startAgents starts the agents of both nodes; that of the second reaches the
// relay over a leg.
func (r *rig) startAgents(ctx context.Context) error {
	pin, err := os.ReadFile(filepath.Join(r.state("relay"), "ca-pin"))
	if err != nil {
		return err
	}
	for i, n := range r.nodes {
		relay := addr(r.relay, relayPort)
		if i == 1 {
			relay = r.legOf["agent"].addr()
		}
		args := []string{
			"--relay", relay, "--node", n.host.Name(), "--state-dir", r.state(n.host.Name()),
			"--join-token-file", filepath.Join(r.state("relay"), "join-token"), "--relay-ca-pin", strings.TrimSpace(string(pin)),
			"--health-listen", agentHealth, "--log-level", "warn",
		}
		if r.debug {
			args = append(args, "--debug-listen", agentDebug)
		}
		if r.cluster == nil {
			args = append(args, "--source", "named", "--netns-dir", n.host.NetnsDir())
		}
		r.agents[i], err = n.host.StartCommand(context.Background(), n.enter(lab.Command{Path: r.bin.agent, Args: args, Label: "culvert-agent"}))
		if err != nil {
			return err
		}
		if err := ready(ctx, n.host, r.agents[i], agentHealth); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until a program says over HTTP that it is.
func ready(ctx context.Context, host *lab.Host, p *lab.Process, health string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return cluster.Await(ctx, "readiness", func(ctx context.Context) error {
		select {
		case <-p.Done():
			return fmt.Errorf("it has ended: %s", said(p))
		default:
		}
		code, body, err := host.HTTPGet(ctx, "http://"+health+"/readyz")
		if err == nil && code != http.StatusOK {
			err = errors.New(strings.TrimSpace(body))
		}
		return err
	})
}

// startLimit starts relays and nodes of the bare path.
func (r *rig) startLimit(context.Context) error {
	for i, n := range r.nodes {
		node, err := r.bare(n.host, "node", "-listen", addr(n.host, limitNodePort), "-netns", n.netns)
		if err != nil {
			return err
		}
		to := addr(n.host, limitNodePort)
		if i == 1 {
			l, err := r.leg("limit-node", r.relay.Namespace, 17602, to)
			if err != nil {
				return err
			}
			to = l.addr()
		}
		relay, err := r.bare(r.relay, "relay", "-listen", addr(r.relay, limitRelayPort+i), "-to", to)
		if err != nil {
			return err
		}
		r.limitNodes[i], r.limitRelays[i] = node, relay
	}
	return nil
}

// bare starts a part of the bare path.
func (r *rig) bare(host *lab.Host, args ...string) (*lab.Process, error) {
	p, err := host.StartCommand(context.Background(), lab.Command{Path: r.bin.limit, Args: args, Label: "limit-" + args[0]})
	if err != nil {
		return nil, err
	}
	_, err = p.WaitLine(regexp.MustCompile(`^listening `), patience)
	return p, err
}

// startLegs puts delaying proxies before everything that clients dial, and before
// what the second agent does.
func (r *rig) startLegs(context.Context) error {
	for _, l := range []struct {
		name string
		on   *lab.Host
		port int
		to   string
	}{
		{"limit-0", r.client, 17600, addr(r.relay, limitRelayPort)},
		{"limit-1", r.client, 17601, addr(r.relay, limitRelayPort+1)},
		{"relay", r.client, 17443, addr(r.relay, relayPort)},
		{"agent", r.nodes[1].host, 17443, addr(r.relay, relayPort)},
	} {
		if _, err := r.leg(l.name, l.on.Namespace, l.port, l.to); err != nil {
			return err
		}
	}
	if r.cluster == nil {
		return nil
	}
	_, err := r.leg("stock", r.client.Namespace, 16443, strings.TrimPrefix(r.cluster.Server(), "https://"))
	return err
}

func (r *rig) leg(name string, on *lab.Namespace, port int, to string) (*leg, error) {
	l, err := newLeg(on, loopback(port), to)
	if err != nil {
		return nil, err
	}
	r.legs, r.legOf[name] = append(r.legs, l), l
	return l, nil
}

// set makes the same weather on all legs.
func (r *rig) set(w weather) {
	for _, l := range r.legs {
		l.set(w)
	}
}

const rights = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: bench, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: bench, namespace: default}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods/portforward], verbs: [create, get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bench, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: bench}
subjects: [{kind: ServiceAccount, name: bench, namespace: default}]
`

// kubeconfigs makes a user, and kubeconfigs that lead kubectl through the relay.
func (r *rig) kubeconfigs(ctx context.Context) error {
	if r.cluster == nil {
		return nil
	}
	host, _, err := net.SplitHostPort(strings.TrimPrefix(r.cluster.Server(), "https://"))
	if err != nil {
		return err
	}
	r.serverName = host
	if err := r.cluster.Apply(ctx, rights); err != nil {
		return err
	}
	token, err := r.cluster.Token(ctx, "default", "bench", 8*time.Hour)
	if err != nil {
		return err
	}
	if r.direct, err = r.cluster.TokenKubeconfig("bench", token); err != nil {
		return err
	}
	for _, k := range []struct {
		file  *string
		relay string
	}{{&r.through, addr(r.relay, relayPort)}, {&r.throughFar, r.legOf["relay"].addr()}} {
		*k.file = filepath.Join(r.dir, "kubeconfig-"+strings.ReplaceAll(k.relay, ":", "-"))
		command := r.cluster.KubectlCommand(r.direct, "kubeconfig", "--relay", k.relay, "--relay-ca", r.ca(), "-o", *k.file)
		command.Path = r.bin.culvert
		if _, err := r.client.RunCommand(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

// ca is the file with the authority of the relay.
func (r *rig) ca() string { return filepath.Join(r.state("relay"), "ca.crt") }
