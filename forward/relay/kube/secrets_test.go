package kube

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
)

// No token that a request shows at kubectl's door, in whichever way, gets into the log
// or the audit log, whatever the API server says to it.
func TestNoTokenOfARequestInAnyLog(t *testing.T) {
	const secret = "token-of-a-stranger"
	var records bytes.Buffer
	book, err := audit.Open(audit.Config{Out: &records})
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	rig := newFrontRig(t, rigConfig{
		api: func(w http.ResponseWriter, r *http.Request) {
			status(w, http.StatusUnauthorized, "Unauthorized", "no such thing: "+r.Header.Get("Authorization"))
		},
		kube: func(c *Config) {
			c.Audit, c.Log = book, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.Level(-100)}))
		},
	})
	encoded := base64.RawURLEncoding.EncodeToString([]byte(secret))
	for _, path := range []string{webPath, "/api/v1/pods"} {
		for _, header := range []string{
			"Authorization: Bearer " + secret,
			"Authorization: Basic " + encoded,
			"Authorization: " + secret,
			"Connection: Authorization\r\nAuthorization: Bearer " + secret,
			"Authorization: Bearer " + secret + "\r\nAuthorization: Bearer other",
			"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
				"Sec-WebSocket-Protocol: v4.channel.k8s.io, " + bearerProtocol + encoded,
			"Cookie: token=" + secret,
		} {
			_ = rig.dial().send("POST "+path+" HTTP/1.1", "Host: x", header, "Content-Length: 0").response()
		}
	}
	if err := book.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Count(records.String(), "access-refused") < 5 {
		t.Errorf("little was written down: %s", &records)
	}
	for name, text := range map[string]string{"log": log.String(), "audit log": records.String()} {
		for _, token := range []string{secret, encoded, relaysToken} {
			if strings.Contains(text, token) {
				t.Errorf("%s in the %s:\n%s", token, name, text)
			}
		}
	}
}
