package kubectl

import (
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it; nothing is protected by it
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Subprotocols of a WebSocket.
const (
	tunnelProtocol   = "SPDY/3.1+portforward.k8s.io"
	v4Protocol       = "v4.channel.k8s.io"
	v4Base64Protocol = "v4.base64.channel.k8s.io"
)

// webSocket answers the upgrade to a WebSocket: the first of the client's protocols
// that is known here is taken. No protocol at all is the binary v4, as upstream.
func (h *Handler) webSocket(w http.ResponseWriter, r *http.Request, s Session, ports []uint16) {
	key, ok := h.checkWebSocket(w, r)
	if !ok {
		return
	}
	var chosen string
	offered := []string{}
	for p := range Tokens(r.Header.Values("Sec-WebSocket-Protocol")) {
		offered = append(offered, p)
		if chosen == "" && (p == tunnelProtocol || p == v4Protocol || p == v4Base64Protocol) {
			chosen = p
		}
	}
	if chosen == "" && len(offered) > 0 {
		WriteStatus(w, r, http.StatusForbidden, "Forbidden", fmt.Sprintf(
			"unable to upgrade: requested protocol(s) are not supported: %v; supports %v",
			offered, []string{tunnelProtocol, v4Protocol, v4Base64Protocol}))
		return
	}
	head := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": {acceptKey(key)},
	}
	if chosen != "" {
		head["Sec-Websocket-Protocol"] = []string{chosen}
	}
	if chosen == tunnelProtocol {
		h.upgrade(w, r, head, func(ctx context.Context, conn net.Conn, rest io.Reader) error {
			return h.serveTunnel(ctx, conn, rest, s)
		})
		return
	}
	coded := chosen == v4Base64Protocol
	if err := checkPorts(ports, coded); err != nil {
		WriteStatus(w, r, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	h.upgrade(w, r, head, func(ctx context.Context, conn net.Conn, rest io.Reader) error {
		return h.serveChannels(ctx, conn, rest, s, ports, coded)
	})
}

// checkWebSocket checks what RFC 6455, section 4.2.1, wants of a request, and
// answers if it does not have it.
func (h *Handler) checkWebSocket(w http.ResponseWriter, r *http.Request) (key string, ok bool) {
	refuse := func(code int, reason, text string) (string, bool) {
		WriteStatus(w, r, code, reason, "unable to upgrade: "+text)
		return "", false
	}
	if r.Method != http.MethodGet {
		return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "a WebSocket is asked for with GET")
	}
	if !hasToken(r.Header, "Sec-WebSocket-Version", "13") {
		w.Header().Set("Sec-WebSocket-Version", "13")
		return refuse(http.StatusUpgradeRequired, "BadRequest", "only version 13 of WebSocket is spoken here")
	}
	key = r.Header.Get("Sec-WebSocket-Key")
	if nonce, err := base64.StdEncoding.DecodeString(key); err != nil || len(nonce) != 16 {
		return refuse(http.StatusBadRequest, "BadRequest", "Sec-WebSocket-Key is not 16 bytes in base64")
	}
	return key, true
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}
