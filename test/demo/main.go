// Demo shows the whole path on one machine: hosts as network namespaces, a
// relay, two agents, a pod that listens on nothing but its own localhost, a
// forward to it, and with tcpdump where the packets went and where they did
// not. It needs root and cleans up after itself.
//
// With -stay it leaves a relay, an agent and a pod running on this machine's
// own loopback until it is interrupted, for trying by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	stay := flag.Bool("stay", false, "leave a relay, an agent and a pod running for trying by hand")
	idle := flag.Bool("footprint", false, "print what the programs hold in memory while nothing happens")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := prepare()
	if err == nil {
		switch {
		case *stay:
			err = run(ctx)
		case *idle:
			err = footprint(ctx)
		default:
			err = demo(ctx)
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1) //nolint:gocritic // everything was cleaned up by then
	}
}

// prepare checks what the demo needs of the machine.
func prepare() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run sudo make demo")
	}
	for tool, pkg := range map[string]string{"ip": "iproute2", "nsenter": "util-linux", "tcpdump": "tcpdump"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed: apt-get install %s", tool, pkg)
		}
	}
	return nil
}

// step tells what happens next.
func step(format string, args ...any) { fmt.Printf("\n\033[1m==> "+format+"\033[0m\n", args...) }

// note tells what came of it.
func note(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }
