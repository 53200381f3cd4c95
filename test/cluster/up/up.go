//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-k8s/culvert/test/cluster"
	"github.com/culvert-k8s/culvert/test/lab"
)

// workload is something to try a forward with.
const workload = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: "` + lab.PodImage + `", imagePullPolicy: Never, args: ["-http", "8080"]}
`

// up starts a cluster and keeps it until ctx ends.
func up(ctx context.Context) (err error) {
	mine, err := hold()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mine.release()) }()
	binaries, err := cluster.FindBinaries()
	if err != nil {
		return err
	}
	logs := filepath.Join(mine.dir, "logs")
	if err := errors.Join(os.RemoveAll(logs), os.Mkdir(logs, 0o755)); err != nil {
		return err
	}
	fmt.Println("starting Kubernetes; logs are in", logs)
	begin := time.Now()
	c, err := cluster.Start(ctx, cluster.Config{Binaries: binaries, Artifacts: logs, DNS: true})
	if err != nil {
		return err
	}
	defer func() {
		fmt.Println("\ntaking it down")
		err = errors.Join(err, c.Close())
	}()
	if err := c.Apply(ctx, workload); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "rollout", "status", "deployment/web", "--timeout=2m"); err != nil {
		return err
	}
	if err := mine.writeScripts(c, binaries); err != nil {
		return err
	}
	explain(c, mine, time.Since(begin))
	<-ctx.Done()
	return nil
}

// explain says what can be done with the cluster.
func explain(c *cluster.Cluster, mine *holding, took time.Duration) {
	fmt.Printf("ready after %.0f s\n\n", took.Seconds())
	for _, h := range c.Network.Hosts() {
		fmt.Printf("    %-8s %s\n", h.Name(), h.Addr())
	}
	fmt.Printf(`
In another terminal, as root:

    %[1]s get pods -o wide                      # kubectl on the client host
    %[1]s port-forward deployment/web 8080
    %[2]s client curl http://127.0.0.1:8080/    # a command on a host, with its network
    %[2]s node1 sh                              # on a node also with its files

Ctrl-C here, or make cluster-down, ends it and cleans up.

`, filepath.Join(mine.dir, "kubectl"), filepath.Join(mine.dir, "on"))
}
