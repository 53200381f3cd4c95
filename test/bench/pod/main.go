// Pod is the program in the pods of the benchmark: it costs as little as such a
// program can, so that what is measured is the way to it. Everything listens on
// the pod's localhost only.
//
//	7100  transfers: eight bytes ask for one, the length in the low 63 bits; the
//	      highest bit is set for bytes from the client, which are answered with one
//	7101  echo
//	8080  HTTP
//
// It prints "ready" when it listens, and ends with SIGTERM.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/test/bench/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listen := func(port int) (net.Listener, error) { return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) }
	if err := run(ctx, listen, func() { fmt.Println("ready") }); err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

// run serves until ctx ends. Connections end with their peers, or with the process.
func run(ctx context.Context, listen func(port int) (net.Listener, error), ready func()) error {
	var g errgroup.Group
	defer func() { _ = g.Wait() }() // the first error is on its way
	ended := make(chan error, 3)
	for port, serve := range map[int]func(net.Listener) error{
		load.PortTransfer: each(transfers), load.PortEcho: each(echo), load.PortHTTP: web,
	} {
		ln, err := listen(port)
		if err != nil {
			return err
		}
		defer ln.Close()
		g.Go(func() error {
			err := serve(ln)
			ended <- err
			return err
		})
	}
	ready()
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}

// each serves every connection by itself.
func each(serve func(net.Conn) error) func(net.Listener) error {
	return func(ln net.Listener) error {
		var running sync.WaitGroup
		defer running.Wait()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return err
			}
			running.Go(func() {
				defer conn.Close()
				_ = serve(conn) // the client sees what went wrong
			})
		}
	}
}

func echo(conn net.Conn) error {
	var buf [4 << 10]byte
	for {
		n, err := conn.Read(buf[:])
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func transfers(conn net.Conn) error {
	var head [8]byte
	var buf []byte
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return err
		}
		if buf == nil {
			buf = make([]byte, 256<<10)
		}
		ask := binary.BigEndian.Uint64(head[:])
		n := int64(ask &^ load.FromClient)
		if ask&load.FromClient == 0 {
			if err := send(conn, buf, n); err != nil {
				return err
			}
			continue
		}
		if err := take(conn, buf, n); err != nil {
			return err
		}
		if _, err := conn.Write([]byte{1}); err != nil {
			return err
		}
	}
}

func send(conn net.Conn, buf []byte, n int64) error {
	for n > 0 {
		sent, err := conn.Write(buf[:min(n, int64(len(buf)))])
		n -= int64(sent)
		if err != nil {
			return err
		}
	}
	return nil
}

func take(conn net.Conn, buf []byte, n int64) error {
	for n > 0 {
		got, err := conn.Read(buf[:min(n, int64(len(buf)))])
		n -= int64(got)
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

func web(ln net.Listener) error {
	answer := make([]byte, load.AnswerSize)
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(answer)
		}),
	}
	return server.Serve(ln)
}
