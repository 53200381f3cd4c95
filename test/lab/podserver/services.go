package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// services are the kinds of service by the name of their flag.
var services = map[string]struct {
	usage string
	make  func(name, argument string) (handler, error)
}{
	"echo":   {"`address` that echoes", noArgument(echo)},
	"greet":  {"`address` that speaks first", makeGreet},
	"http":   {"`address` that serves HTTP", makeHTTP},
	"late":   {"`address,duration` that answers after the client has finished", makeLate},
	"reset":  {"`address[,bytes]` that aborts connections", makeReset},
	"source": {"`address,bytes` that sends the pattern", makeSource},
	"sink":   {"`address` that answers size and SHA-256", noArgument(sink)},
	"stall":  {"`address` that never reads", noArgument(stall)},
	"tester": {"`address[,want]` that tells what it sees, then sends 100 times x", makeTester},
}

// errAbort makes a handler's connection end with a reset.
var errAbort = errors.New("abort")

func noArgument(h handler) func(string, string) (handler, error) {
	return func(_, argument string) (handler, error) {
		if argument != "" {
			return nil, fmt.Errorf("takes no argument, not %q", argument)
		}
		return h, nil
	}
}

func echo(_ context.Context, conn *net.TCPConn) error {
	_, err := io.Copy(conn, conn)
	return err
}

func makeGreet(name, _ string) (handler, error) {
	return func(ctx context.Context, conn *net.TCPConn) error {
		if _, err := fmt.Fprintf(conn, "hello from %s\n", name); err != nil {
			return err
		}
		return echo(ctx, conn)
	}, nil
}

func makeLate(_, argument string) (handler, error) {
	delay, err := time.ParseDuration(argument)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, conn *net.TCPConn) error {
		n, err := io.Copy(io.Discard, conn)
		if err != nil {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return errAbort
		}
		_, err = fmt.Fprintf(conn, "late answer to %d bytes\n", n)
		return err
	}, nil
}

func makeReset(_, argument string) (handler, error) {
	n, err := parseBytes(argument, 0)
	return func(_ context.Context, conn *net.TCPConn) error {
		io.CopyN(io.Discard, conn, n)
		return errAbort
	}, err
}

func makeSource(_, argument string) (handler, error) {
	n, err := parseBytes(argument, 1<<20)
	return func(_ context.Context, conn *net.TCPConn) error { return writePattern(conn, n) }, err
}

func sink(_ context.Context, conn *net.TCPConn) error {
	hash := sha256.New()
	n, err := io.Copy(hash, conn)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "%d %x\n", n, hash.Sum(nil))
	return err
}

// stall holds the connection without reading for as long as the program runs.
func stall(ctx context.Context, _ *net.TCPConn) error {
	<-ctx.Done()
	return errAbort
}

// writePattern writes the first n bytes of the pattern.
func writePattern(w io.Writer, n int64) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	var group [8]byte
	for offset := int64(0); offset < n; offset += 8 {
		binary.BigEndian.PutUint64(group[:], uint64(offset))
		if _, err := buffered.Write(group[:min(8, n-offset)]); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// parseBytes reads a number of bytes; empty means fallback.
func parseBytes(s string, fallback int64) (int64, error) {
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && n < 0 {
		err = fmt.Errorf("%d is negative", n)
	}
	return n, err
}
