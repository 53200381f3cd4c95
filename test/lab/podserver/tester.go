package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// makeTester returns what Kubernetes' own tests of port-forward have in their
// pods: it prints what it sees of each connection, in their words.
func makeTester(_, want string) (handler, error) {
	return func(ctx context.Context, conn *net.TCPConn) error {
		fmt.Println("Accepted client connection")
		if want != "" {
			got := make([]byte, len(want))
			n, err := io.ReadFull(conn, got)
			if n < len(want) {
				fmt.Printf("Expected to read %d bytes from client, but got %d instead. err=%v\n", len(want), n, err)
				return err
			}
			if string(got) != want {
				fmt.Printf("Expected %q from client, but got %q\n", want, got)
				return errAbort
			}
			fmt.Println("Received expected client data")
		}
		for range 10 {
			if _, err := conn.Write(bytes.Repeat([]byte("x"), 10)); err != nil {
				fmt.Println("Cannot write:", err)
				return err
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return errAbort
			}
		}
		if err := conn.CloseWrite(); err != nil {
			return err
		}
		// The client may have sent more: closing without reading it would reset.
		n, err := io.Copy(io.Discard, conn)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		fmt.Printf("Done, %d more bytes\n", n)
		return nil
	}, nil
}
