package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/test/bench/load"
)

// serve runs the pod on free ports, and returns how to reach them.
func serve(t *testing.T) func(port int) load.Dialer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	at := map[int]string{}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- run(ctx, func(port int) (net.Listener, error) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				at[port] = ln.Addr().String()
			}
			return ln, err
		}, func() { close(ready) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-ready
	return func(port int) load.Dialer {
		return func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", at[port])
		}
	}
}

// TestLoad puts every kind of load on the pod without anything between.
func TestLoad(t *testing.T) {
	to := serve(t)
	for _, up := range []bool{false, true} {
		if speed, err := load.Transfer(t.Context(), to(load.PortTransfer), 3, 4<<20, up); err != nil || speed <= 0 {
			t.Errorf("transfer, up %v: %v, %v", up, speed, err)
		}
	}
	release, err := load.Stall(t.Context(), to(load.PortTransfer))
	if err != nil {
		t.Fatal(err)
	}
	release()
	const long = time.Hour // the limit ends it
	for name, try := range map[string]func() (load.Tally, error){
		"keep-alive": func() (load.Tally, error) { return load.KeepAlive(t.Context(), to(load.PortHTTP), 2, 5, long) },
		"fresh":      func() (load.Tally, error) { return load.Fresh(t.Context(), to(load.PortHTTP), 2, 5, long) },
		"to the end": func() (load.Tally, error) { return load.FreshToEnd(t.Context(), to(load.PortHTTP), 2, 5, long) },
	} {
		if got, err := try(); err != nil || len(got.Seconds) != 10 || got.PerSecond <= 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := load.Ping(t.Context(), to(load.PortEcho), 5, long); err != nil || len(got.Seconds) != 5 {
		t.Errorf("ping: %+v, %v", got, err)
	}
	opened, release, err := load.Hold(t.Context(), to(load.PortEcho), 20, 4)
	release()
	if opened != 20 || err != nil {
		t.Errorf("held %d, %v", opened, err)
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	to := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	release, err := load.Stall(ctx, to(load.PortTransfer))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	cancel()
	if _, err := load.Ping(ctx, to(load.PortEcho), 0, time.Hour); err == nil {
		t.Error("it went on")
	}
}
