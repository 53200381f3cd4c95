// Podserver is the program inside the pods of the tests: a handful of small TCP
// services, each chosen by a flag that may be repeated, and an init process for
// containers. It needs no container; the tests also run it in bare namespaces.
//
// Each service flag takes ADDRESS[,ARGUMENT]. An address without a host is on
// 127.0.0.1 only, so that nothing but the pod's own loopback reaches it:
//
//	-echo 7000          answers what it reads, and finishes when the client does
//	-http 8080          GET /, GET /bytes?n=N, POST /sha256, GET /slow?d=2s, GET /clock
//	-greet 7001         speaks first, then echoes
//	-late 7002,2s       reads to the end, waits, then answers how much it read
//	-reset 7003,100     reads 100 bytes, then aborts the connection
//	-source 7004,1000   sends 1000 bytes of the pattern, then finishes
//	-sink 7005          reads to the end and answers size and SHA-256
//	-stall 7006         accepts and never reads
//	-tester 7007,abc    reads abc unless that is empty, sends 100 times x in ten
//	                    pieces, finishes, and prints what it sees
//
// In the pattern each group of eight bytes is its own offset in the stream, big
// endian: a byte that is lost, doubled or moved is seen at once.
//
// When all services listen it prints "ready". It ends at SIGTERM or SIGINT.
// With -version it only says what it is, for a test that executes it in a pod.
// With -pause it also reaps the children it inherits, as the first process of a
// pod must.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "podserver:", err)
		os.Exit(1)
	}
}

// run serves what args ask for until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("podserver", flag.ContinueOnError)
	name := flags.String("name", "podserver", "`name` given in greetings and in answers over HTTP")
	pause := flags.Bool("pause", false, "reap inherited children")
	version := flags.Bool("version", false, "say what this is and end")
	var wanted []request
	for kind, service := range services {
		flags.Func(kind, service.usage, func(value string) error {
			address, argument, _ := strings.Cut(value, ",")
			wanted = append(wanted, request{kind: kind, address: withHost(address), argument: argument})
			return nil
		})
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *version {
		_, err := fmt.Fprintln(out, "podserver, built with", runtime.Version())
		return err
	}
	if *pause {
		defer reap()()
	}
	return serve(ctx, *name, wanted, func() { fmt.Fprintln(out, "ready") })
}

// withHost puts an address that is only a port on the IPv4 loopback.
func withHost(address string) string {
	if strings.Contains(address, ":") {
		return address
	}
	return "127.0.0.1:" + address
}

// reap collects ended children until the function it returns is called.
func reap() (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range signals {
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if err == syscall.EINTR {
					continue
				}
				if pid <= 0 {
					break
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}
