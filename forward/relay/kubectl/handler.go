package kubectl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Handler serves port-forward sessions. It may be used by many goroutines.
type Handler struct {
	cfg     Config
	blocks  sync.Pool // of *block
	batches sync.Pool // of *batch
	budget  budget
}

// New makes a Handler.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg.withDefaults()}
	h.budget.limit = int64(h.cfg.TotalBuffer)
	return h
}

// ServeSession answers a request for pods/NAME/portforward that was let in, and
// returns when the session it asks for has ended with everything it started. The
// end of r's context ends the session.
//
// It wants POST (or GET) with Upgrade: SPDY/3.1, or GET with a WebSocket upgrade.
// Anything else is answered with a Status. ports are those of the query, see
// [ParsePorts]; the native WebSocket protocols need them and SPDY ignores them.
func (h *Handler) ServeSession(w http.ResponseWriter, r *http.Request, s Session, ports []uint16) {
	switch {
	case !hasToken(r.Header, "Connection", "upgrade"):
		WriteStatus(w, r, http.StatusBadRequest, "BadRequest", "Upgrade request required")
	case hasToken(r.Header, "Upgrade", "websocket"):
		h.webSocket(w, r, s, ports)
	case hasToken(r.Header, "Upgrade", "spdy/3.1"):
		h.spdy(w, r, s)
	default:
		WriteStatus(w, r, http.StatusBadRequest, "BadRequest",
			fmt.Sprintf("unable to upgrade: %q is neither SPDY/3.1 nor websocket", r.Header.Get("Upgrade")))
	}
}

// hasToken reports whether a header that lists tokens has one, in whatever case.
func hasToken(h http.Header, name, token string) bool {
	for field := range Tokens(h.Values(name)) {
		if strings.EqualFold(field, token) {
			return true
		}
	}
	return false
}

// Tokens returns the elements of a header that lists them between commas, over all
// its lines, without spaces and without those that are empty.
func Tokens(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for field := range strings.SplitSeq(line, ",") {
				if field = strings.TrimSpace(field); field != "" && !yield(field) {
					return
				}
			}
		}
	}
}

const (
	protocolHeader = "X-Stream-Protocol-Version"
	protocolName   = "portforward.k8s.io"
)

// spdy answers the upgrade as k8s.io/streaming does: 400 without a protocol, 403
// without one in common.
func (h *Handler) spdy(w http.ResponseWriter, r *http.Request, s Session) {
	var offered []string
	for p := range Tokens(r.Header.Values(protocolHeader)) {
		if p == protocolName {
			h.upgrade(w, r, http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, protocolHeader: {protocolName},
			}, func(ctx context.Context, conn net.Conn, rest io.Reader) error {
				return h.serveSPDY(ctx, conn, rest, s)
			})
			return
		}
		offered = append(offered, p)
	}
	if len(offered) == 0 {
		WriteStatus(w, r, http.StatusBadRequest, "BadRequest", "unable to upgrade: "+protocolHeader+" is required")
		return
	}
	w.Header().Set("X-Accepted-Stream-Protocol-Versions", protocolName)
	WriteStatus(w, r, http.StatusForbidden, "Forbidden", fmt.Sprintf(
		"unable to upgrade: unable to negotiate protocol: client supports %v, server accepts [%s]", offered, protocolName))
}

// upgrade takes the connection over, answers 101 with head and what w's header has,
// and serves.
func (h *Handler) upgrade(
	w http.ResponseWriter, r *http.Request, head http.Header,
	serve func(ctx context.Context, conn net.Conn, rest io.Reader) error,
) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		WriteStatus(w, r, http.StatusBadRequest, "BadRequest", "unable to upgrade: this needs a connection with HTTP/1.1")
		return
	}
	defer func() { _ = conn.Close() }()
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return
	}
	early = bytes.Clone(early) // the server may use its reader again
	for name, values := range w.Header() {
		if _, ours := head[name]; !ours {
			head[name] = values
		}
	}
	var answer bytes.Buffer
	answer.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = head.Write(&answer) // to memory
	answer.WriteString("\r\n")
	tuneSocket(conn)
	_ = conn.SetDeadline(time.Now().Add(lingerTimeout))
	if _, err := conn.Write(answer.Bytes()); err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{}) // whatever the server had set, too
	var rest io.Reader = conn
	if len(early) > 0 {
		rest = io.MultiReader(bytes.NewReader(early), conn)
	}
	err = serve(r.Context(), conn, rest)
	h.cfg.Log.Debug("port-forward session ended", "from", r.RemoteAddr, "error", err)
}
