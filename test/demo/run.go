package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// run leaves a relay, an agent and a pod running until ctx ends.
func run(ctx context.Context) (err error) {
	step("build the programs")
	bins, err := lab.Build(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "culvert-run-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	const pod = "culvert-web"
	step("start a pod: network namespace %s with a web server on its own localhost:8080", pod)
	if out, err := exec.CommandContext(ctx, "ip", "netns", "add", pod).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns add %s: %w: %s", pod, err, out)
	}
	defer func() { err = errors.Join(err, exec.Command("ip", "netns", "delete", pod).Run()) }() //nolint:noctx // after the end of ctx
	if out, err := exec.CommandContext(ctx, "ip", "-n", pod, "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	relayState, agentState := filepath.Join(dir, "relay"), filepath.Join(dir, "agent")
	server := start("nsenter", "--net=/run/netns/"+pod, bins.PodServer, "-http", "8080")
	relay := start(bins.Relay, "serve", "--listen", "127.0.0.1:7443", "--state-dir", relayState, "--advertise", "127.0.0.1")
	defer stop(server, relay)
	pin, err := await(ctx, filepath.Join(relayState, "ca-pin"))
	if err != nil {
		return err
	}
	agent := start(bins.Agent, "--relay", "127.0.0.1:7443", "--node", "here", "--source", "named",
		"--state-dir", agentState, "--join-token-file", filepath.Join(relayState, "join-token"), "--relay-ca-pin", pin)
	defer stop(agent)

	step("running; try, in another terminal:")
	fmt.Printf(`
    export CULVERT_RELAY=127.0.0.1:7443 CULVERT_RELAY_CA=%s CULVERT_TOKEN_FILE=%s
    %s get nodes
    %s get pods
    %s port-forward %s 8080      # then: curl http://127.0.0.1:8080/

Ctrl-C ends it and cleans up.

`, filepath.Join(relayState, "ca.crt"), filepath.Join(relayState, "client-token"), bins.Client, bins.Client, bins.Client, pod)
	<-ctx.Done()
	return nil
}

// start runs a program in the background, its output on this terminal.
func start(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:noctx // ended by stop, in order
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	return cmd
}

// stop asks programs to end and waits for them.
func stop(cmds ...*exec.Cmd) {
	for _, cmd := range cmds {
		if cmd.Process != nil {
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
		}
	}
}

// await waits for a file that another process writes, and returns what is in it.
func await(ctx context.Context, path string) (string, error) {
	for range 100 {
		if b, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(b)), nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return "", fmt.Errorf("%s did not appear", path)
}
