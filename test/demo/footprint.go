package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/culvert-k8s/culvert/test/lab"
)

// settle is how long the programs are left alone before they are looked at.
const settle = 3 * time.Second

// footprint prints what the programs hold in memory while nothing happens.
func footprint(ctx context.Context) (err error) {
	c, err := lab.StartCluster(ctx, lab.ClusterConfig{Nodes: []string{"node1"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if _, err := c.PodServer(ctx, "node1", "web", "-http", "8080"); err != nil {
		return err
	}
	pf, err := c.Culvert(ctx, "port-forward", "web", "0:8080")
	if err != nil {
		return err
	}
	if _, err := pf.WaitLine(forwarding, 15*time.Second); err != nil {
		return err
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	fmt.Printf("%-14s %10s %10s %8s   idle: one tunnel, one pod, one forward\n", "", "RSS KiB", "anon KiB", "threads")
	for _, p := range []struct {
		name string
		proc *lab.Process
	}{{"culvert-agent", c.Agents["node1"].Process}, {"culvert-relay", c.Relay.Process}, {"culvert", pf}} {
		held, err := status(p.proc.Pid())
		if err != nil {
			return err
		}
		fmt.Printf("%-14s %10s %10s %8s\n", p.name, held["VmRSS"], held["RssAnon"], held["Threads"])
	}
	return nil
}

// status returns the first number of each line of a process's status.
func status(pid int) (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	held := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if f := strings.Fields(value); len(f) > 0 {
			held[name] = f[0]
		}
	}
	return held, nil
}
