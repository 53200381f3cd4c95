//go:build linux

package faults

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/culvert-k8s/culvert/test/lab"
)

// twoRelays puts a second relay of the same authority beside the first.
type twoRelays struct {
	second string // its address; empty before it is there
	state  string
	health string
}

// wrap has agents keep a tunnel to both.
func (w *twoRelays) wrap(host string, command lab.Command) lab.Command {
	if host != "relay" && w.second != "" {
		command.Args = append(command.Args, "--relay", w.second)
	}
	return command
}

// take starts the second relay, with what the first one knows, and everybody else
// anew with both.
func (w *twoRelays) take(t *testing.T, r *rig) {
	t.Helper()
	r.quiet(t)
	w.state, w.health = filepath.Join(t.TempDir(), "state"), "127.0.0.1:7490"
	must(t, os.Mkdir(w.state, 0o700))
	must(t, os.CopyFS(filepath.Join(w.state, "copy"), os.DirFS(r.Relay.StateDir)))
	w.state = filepath.Join(w.state, "copy")
	must(t, private(w.state))
	second := r.Relay.Host.Addr().String() + ":7444"
	args := slices.Clone(r.Relay.Args())
	for flag, value := range map[string]string{
		"--listen": ":7444", "--state-dir": w.state, "--health-listen": w.health, "--debug-listen": "127.0.0.1:6061",
	} {
		args[slices.Index(args, flag)+1] = value
	}
	_, err := r.Relay.Host.StartCommand(context.Background(), lab.Command{Path: r.Binaries.Relay, Args: args, Label: "culvert-relay-2"})
	must(t, err)
	awaitReady(t, r.Relay.Host, w.health)
	w.second = second
	for _, node := range nodes() {
		must(t, r.Agents[node].Stop(patience))
		must(t, r.Agents[node].Start(t.Context()))
		for _, u := range r.users {
			f := u.forwards[node]
			must(t, f.Stop(patience))
			f.command.Args = slices.Insert(f.command.Args, 1, "--relay", r.Relay.Addr(), "--relay", second)
			must(t, f.start())
		}
	}
	r.awaitService(t, r.flows(everybody))
	r.quiet(t)
	r.noteHoldings(t)
	r.load.Resume()
}

// private takes from others what copying has given them.
func private(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600)
		if entry.IsDir() {
			mode = 0o700
		}
		return os.Chmod(path, mode)
	})
}

func (w *twoRelays) faults() []fault {
	start := func(t *testing.T, r *rig) { must(t, r.Relay.Start(t.Context())) }
	return []fault{
		// The longest stream of the load is shorter than the time a relay gives: nobody
		// may notice anything, old streams and new ones.
		{where: "one of two relays", what: "SIGTERM, and started again", lasts: longTime, end: start, begin: func(t *testing.T, r *rig) {
			must(t, r.Relay.Stop(patience))
		}},
		{where: "one of two relays", what: "kill -9, and started again", hits: everybody, lasts: longTime, end: start, begin: func(_ *testing.T, r *rig) {
			r.Relay.Process.Kill()
		}},
	}
}
