//go:build linux

// Up runs a Kubernetes cluster for trying by hand until it is interrupted, or
// ended from elsewhere with "up -down". It needs root and what "make runtime" and
// "make cluster-binaries" build, and cleans up after itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	down := flag.Bool("down", false, "end the cluster that runs, and wait until it is gone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := up
	if *down {
		run = end
	}
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // everything was cleaned up by then
	}
}
