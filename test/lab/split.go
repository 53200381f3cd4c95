//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// frontUser is who an agent with a broker runs as: the user and the group of the
// chart.
const frontUser = 65532

// Broker is the broker of an agent: root, with the one capability that it needs.
type Broker struct {
	// Process is the one that is running, or ran last.
	Process *Process
	// Socket is the path at which it answers.
	Socket string

	host *Host
	path string
	args []string
}

// Start starts it, after it was stopped or killed, and waits until it has made its
// socket.
func (b *Broker) Start(context.Context) error {
	p, err := b.host.StartCommand(context.Background(), Command{
		Path: "setpriv", Args: append([]string{"--bounding-set=-all,+sys_admin", "--inh-caps=-all", "--no-new-privs", b.path}, b.args...),
		Env: []string{quickExit}, Label: "culvert-broker",
	})
	if err != nil {
		return err
	}
	b.Process = p
	_, err = p.WaitLine(regexp.MustCompile("broker starts"), readyTimeout)
	return err
}

// Get fails: a broker listens nowhere that can be asked.
func (b *Broker) Get(context.Context, string) (status int, body string, err error) {
	return 0, "", errors.New("a broker has no health endpoints: ask its agent")
}

// split makes a of an agent that has all power one that has none, and a broker. The
// flags about pods go to the broker.
func (a *Agent) split(c *Cluster, token string) error {
	dir := filepath.Join(c.Network.Dir(), "hosts", a.Node, "agent")
	if err := errors.Join(
		os.Chmod(c.Network.Dir(), 0o711), os.Chmod(c.stateDir(""), 0o711), // to pass through, not to look around
		os.Mkdir(dir, 0o700), own(dir, 0o711, frontUser),
		os.Mkdir(filepath.Join(dir, "run"), 0o700), os.Chown(filepath.Join(dir, "run"), 0, frontUser),
		os.Chmod(filepath.Join(dir, "run"), 0o770|os.ModeSetgid), // as the kubelet does
		os.Mkdir(a.StateDir, 0o700), os.Chown(a.StateDir, frontUser, frontUser),
		give(token, filepath.Join(dir, "join-token"), 0o400),
		give(c.Binaries.Agent, filepath.Join(dir, "culvert-agent"), 0o500), // it may lie where only root goes
	); err != nil {
		return fmt.Errorf("split the agent of %s: %w", a.Node, err)
	}
	socket := filepath.Join(dir, "run", "broker.sock")
	mine, brokers := shareOut(a.args)
	mine = append(mine, "--broker", socket)
	for i, arg := range mine {
		if arg == token {
			mine[i] = filepath.Join(dir, "join-token")
		}
	}
	a.Broker = &Broker{
		host: a.Host, Socket: socket, path: c.Binaries.Agent,
		args: append([]string{"broker", "--socket", socket, "--uid", strconv.Itoa(frontUser)}, brokers...),
	}
	user := strconv.Itoa(frontUser)
	a.args = append([]string{
		"--reuid=" + user, "--regid=" + user, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
		filepath.Join(dir, "culvert-agent"),
	}, mine...)
	a.binary, a.label = "setpriv", filepath.Base(c.Binaries.Agent)
	return nil
}

// shareOut returns which flags are the agent's and which the broker's.
func shareOut(args []string) (agents, brokers []string) {
	into := &agents
	for _, arg := range args {
		if strings.HasPrefix(arg, "--") {
			into = &agents
			switch name, _, _ := strings.Cut(arg, "="); name {
			case "--source", "--netns-dir", "--allow-namespaces", "--deny-namespaces", "--allow-ports", "--deny-ports", "--allow-host-network":
				into = &brokers
			}
		}
		*into = append(*into, arg)
	}
	return agents, brokers
}

// own makes a directory that of the agent's user.
func own(path string, mode os.FileMode, uid int) error {
	return errors.Join(os.Chmod(path, mode), os.Chown(path, uid, uid))
}

// give makes a copy of a file that only the agent's user can use.
func give(from, to string, mode os.FileMode) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, b, mode), own(to, mode, frontUser))
}
