package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"sync"
	"time"
)

const (
	// longestProfile bounds a profile that is taken over time.
	longestProfile = 5 * time.Minute
	// blockRate is how finely waiting is sampled while somebody asks for it: one
	// sample for so many nanoseconds.
	blockRate = 10_000
	// mutexFraction is of how many contended locks one is sampled.
	mutexFraction = 10
)

// Debug serves the profiles of this process under /debug/pprof/, in the form that
// "go tool pprof" asks for. It answers on loopback only and asks nobody who he is:
// whoever is on this machine, or in this pod, may have what is in the memory
// profiled here. The zero value is ready.
//
// It does what net/http/pprof does, which would register itself with every server
// of the process.
type Debug struct {
	// Listening is told the address once it is known. nil: nobody is.
	Listening func(net.Addr)

	taking sync.Mutex // held while a profile over time is taken
}

// CheckDebug tells whether an address may be given to Serve: empty, or an IP
// address of loopback (or localhost) with a port.
func CheckDebug(addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%w; give 127.0.0.1:PORT", err)
	}
	if !isLoopback(host) {
		return fmt.Errorf("%q is not on loopback, and profiles are for nobody else: give 127.0.0.1:PORT", addr)
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Serve answers on addr until ctx ends. An empty addr serves nothing.
func (d *Debug) Serve(ctx context.Context, addr string) error {
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	if err := CheckDebug(addr); err != nil {
		return fmt.Errorf("serve profiles: %w", err)
	}
	at, err := net.ResolveTCPAddr("tcp", addr)
	if err == nil && !at.IP.IsLoopback() {
		err = fmt.Errorf("%q is %s here, which is not on loopback", addr, at.IP)
	}
	if err != nil {
		return fmt.Errorf("serve profiles: %w", err)
	}
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		return fmt.Errorf("serve profiles: %w", err)
	}
	if d.Listening != nil {
		d.Listening(l.Addr())
	}
	srv := &http.Server{
		Handler:           d.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      longestProfile + time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = srv.Shutdown(limited) // waits for profiles, which end with ctx
		_ = srv.Close()
	})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serve profiles: %w", err)
	}
	<-ended
	return nil
}

func (d *Debug) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/{$}", index)
	mux.HandleFunc("GET /debug/pprof/{name}", d.profile)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page in somebody's browser may give a name of its own to 127.0.0.1.
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if !isLoopback(host) {
			http.Error(w, "ask for 127.0.0.1", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func index(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "profile?seconds=30")
	fmt.Fprintln(w, "trace?seconds=5")
	for _, p := range pprof.Profiles() {
		switch p.Name() {
		case "block", "mutex":
			fmt.Fprintf(w, "%s?seconds=10\n", p.Name())
		default:
			fmt.Fprintln(w, p.Name())
		}
	}
}

func (d *Debug) profile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	over, timed := map[string]func(context.Context, http.ResponseWriter, time.Duration) error{
		"profile": takeCPU, "trace": takeTrace, "block": takeBlocks, "mutex": takeMutexes,
	}[name]
	if !timed {
		snapshot(w, r, name)
		return
	}
	span, err := seconds(r, 10*time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !d.taking.TryLock() {
		http.Error(w, "somebody takes a profile already; ask again when that one is done", http.StatusConflict)
		return
	}
	defer d.taking.Unlock()
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := over(r.Context(), w, span); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func seconds(r *http.Request, otherwise time.Duration) (time.Duration, error) {
	s := r.FormValue("seconds")
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || time.Duration(n)*time.Second > longestProfile {
		return 0, fmt.Errorf("seconds is none of 1 to %d", int(longestProfile.Seconds()))
	}
	return time.Duration(n) * time.Second, nil
}

// snapshot writes a profile of this moment.
func snapshot(w http.ResponseWriter, r *http.Request, name string) {
	p := pprof.Lookup(name)
	if p == nil {
		http.Error(w, "no such profile; /debug/pprof/ lists them", http.StatusNotFound)
		return
	}
	if name == "heap" && r.FormValue("gc") == "1" {
		runtime.GC()
	}
	debug, _ := strconv.Atoi(r.FormValue("debug")) // what is no number is 0
	kind := "application/octet-stream"
	if debug > 0 {
		kind = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	_ = p.WriteTo(w, debug) // whoever asked has hung up
}

func pass(ctx context.Context, span time.Duration) {
	t := time.NewTimer(span)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func takeCPU(ctx context.Context, w http.ResponseWriter, span time.Duration) error {
	if err := pprof.StartCPUProfile(w); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	pass(ctx, span)
	return nil
}

func takeTrace(ctx context.Context, w http.ResponseWriter, span time.Duration) error {
	if err := trace.Start(w); err != nil {
		return err
	}
	defer trace.Stop()
	pass(ctx, span)
	return nil
}

// takeBlocks samples where goroutines wait, for as long as somebody asks. What was
// sampled for others before is in it too.
func takeBlocks(ctx context.Context, w http.ResponseWriter, span time.Duration) error {
	runtime.SetBlockProfileRate(blockRate)
	defer runtime.SetBlockProfileRate(0)
	pass(ctx, span)
	return pprof.Lookup("block").WriteTo(w, 0)
}

func takeMutexes(ctx context.Context, w http.ResponseWriter, span time.Duration) error {
	before := runtime.SetMutexProfileFraction(mutexFraction)
	defer runtime.SetMutexProfileFraction(before)
	pass(ctx, span)
	return pprof.Lookup("mutex").WriteTo(w, 0)
}
