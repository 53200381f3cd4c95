// Package boot is what the two servers of Culvert have in common before and
// beside their work: signals, logging, the version, and the health endpoints.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// Context returns a context that ends with SIGINT or SIGTERM. A second signal
// ends the process at once.
func Context() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Version returns the linked version, or else what the module says.
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// Logger returns a logger to w in the given format (text or json) and level
// (debug, info, warn, error).
func Logger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q is none of text, json", format)
}

// MemoryLimit returns the memory limit of the process (GOMEMLIMIT) in bytes, 0 if there
// is none.
func MemoryLimit() int64 {
	limit := debug.SetMemoryLimit(-1) // asks
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// Health serves /healthz (the process lives), /readyz (it can do its work) and
// /metrics. Ready and Metrics must be set.
type Health struct {
	Ready   func() bool
	Metrics func(io.Writer)
	// Beside tells by name what this process cannot do without and what cannot be asked
	// itself: nil from /healthz/NAME is as good as that of /healthz. May be nil.
	Beside map[string]func() error
	// Listening is told the address once it is known. nil: nobody is.
	Listening func(net.Addr)
}

// Serve answers on addr until ctx ends. An empty addr serves nothing.
func (h *Health) Serve(ctx context.Context, addr string) error {
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serve health: %w", err)
	}
	if h.Listening != nil {
		h.Listening(l.Addr())
	}
	srv := &http.Server{
		Handler:           h.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health: %w", err)
	}
	return nil
}

func (h *Health) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	for name, trouble := range h.Beside {
		mux.HandleFunc("GET /healthz/"+name, func(w http.ResponseWriter, _ *http.Request) {
			if err := trouble(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		})
	}
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !h.Ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		h.Metrics(w)
	})
	return mux
}

// List is a flag that may be given more than once, and takes several values
// separated by commas.
type List []string

// String returns the values as they could be given.
func (l *List) String() string { return strings.Join(*l, ",") }

// Set adds values.
func (l *List) Set(s string) error {
	for v := range strings.SplitSeq(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			*l = append(*l, v)
		}
	}
	return nil
}
