package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// makeHTTP returns a handler that serves HTTP/1.1 with keep-alive.
func makeHTTP(name, _ string) (handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", name)
	})
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := parseBytes(r.FormValue("n"), 1<<10)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(n))
		writePattern(w, n)
	})
	mux.HandleFunc("POST /sha256", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		n, err := io.Copy(hash, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %x\n", n, hash.Sum(nil))
	})
	mux.HandleFunc("GET /clock", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, time.Now().Unix())
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		delay, err := time.ParseDuration(r.FormValue("d"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(delay):
			fmt.Fprintln(w, "slow answer")
		case <-r.Context().Done():
		}
	})
	return func(_ context.Context, conn *net.TCPConn) error {
		server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
		served := &single{conn: conn, done: make(chan struct{})}
		server.Serve(served) // returns when the connection has ended
		return nil
	}, nil
}

// single is a listener of one connection, whose second Accept waits until that
// connection is closed, so that the server lives exactly as long.
type single struct {
	conn net.Conn
	once bool // only used by Accept, which has one caller
	done chan struct{}
	end  sync.Once
}

// Accept returns the connection, then net.ErrClosed when it has ended.
func (l *single) Accept() (net.Conn, error) {
	if !l.once {
		l.once = true
		return &watched{Conn: l.conn, listener: l}, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

// Close lets Accept return. Idempotent.
func (l *single) Close() error {
	l.end.Do(func() { close(l.done) })
	return nil
}

// Addr returns the address the connection came in at.
func (l *single) Addr() net.Addr { return l.conn.LocalAddr() }

// watched tells the listener when the connection is closed.
type watched struct {
	net.Conn
	listener *single
}

// Close closes the connection and lets the server end.
func (c *watched) Close() error {
	defer c.listener.Close()
	return c.Conn.Close()
}
