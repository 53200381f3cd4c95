package kubectl

import (
	"net/http"
)

// Handler serves port-forward sessions.
type Handler struct {
	cfg Config
}

// New makes a Handler.
func New(cfg Config) *Handler {
	return &Handler{cfg: cfg.withDefaults()}
}

// ServeSession answers a request for pods/NAME/portforward that was let in, and
// returns when the session it asks for has ended with everything it started. The
// end of r's context ends the session.
//
// POST with Upgrade: SPDY/3.1, GET with a WebSocket upgrade. Anything else is
// answered with a Status. ports are those of the query (ParsePorts); the native
// WebSocket protocols need them and SPDY ignores them.
func (h *Handler) ServeSession(w http.ResponseWriter, r *http.Request, s Session, ports []uint16) {
	WriteStatus(w, r, http.StatusNotImplemented, "NotImplemented", "not built yet")
}
