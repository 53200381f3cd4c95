package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// request is one service flag.
type request struct{ kind, address, argument string }

// handler serves one connection until it or ctx ends; its caller closes the
// connection, with a reset if there was an error.
type handler func(ctx context.Context, conn *net.TCPConn) error

// serve listens for all requests, calls ready, and serves until ctx ends; then
// it closes every connection and returns when all handlers have.
func serve(ctx context.Context, name string, wanted []request, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, req := range wanted {
		handle, err := services[req.kind].make(name, req.argument)
		if err != nil {
			return fmt.Errorf("-%s: %w", req.kind, err)
		}
		listener, err := net.Listen("tcp", req.address)
		if err != nil {
			return fmt.Errorf("-%s: %w", req.kind, err)
		}
		defer listener.Close() // before running.Wait, which was deferred earlier
		running.Go(func() { accept(ctx, listener.(*net.TCPListener), handle) })
	}
	ready()
	<-ctx.Done()
	return nil
}

// accept serves connections until the listener is closed.
func accept(ctx context.Context, listener *net.TCPListener, handle handler) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the peer gave up before it was accepted
		}
		running.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			if handle(ctx, conn) != nil {
				// An error must not look like a clean end to the client.
				conn.SetLinger(0)
			}
		})
	}
}
