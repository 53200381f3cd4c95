package kube

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/proto/stream"
)

// large is an answer that fits into no buffer on the way.
const large = 32 << 20

// deluge answers whom jane's token shows with 200 and others with 401, and a lot.
func deluge(w http.ResponseWriter, r *http.Request) {
	if auth := r.Header.Get("Authorization"); auth != "" && auth != "Bearer "+janesToken {
		w.WriteHeader(http.StatusUnauthorized)
	}
	for block := make([]byte, 64<<10); ; {
		if _, err := w.Write(block); err != nil {
			return
		}
		if r.URL.Path == "/all" {
			_, _ = w.Write(make([]byte, large-len(block)))
			return
		}
	}
}

// ended waits until so many requests with an answer of this class have ended.
func (r *frontRig) ended(line string) {
	r.t.Helper()
	for end := time.Now().Add(patienceInTests); ; time.Sleep(5 * time.Millisecond) {
		var b bytes.Buffer
		r.kube.WriteMetrics(&b)
		if strings.Contains(b.String(), line+"\n") {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("never came: %s", line)
		}
	}
}

// Strangers who read nothing, or send nothing, do not stay. A caller may read as
// slowly as he likes.
func TestStrangersDoNotStay(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: deluge})
	rig.front.proxy.strangerTime = 50 * time.Millisecond
	jane := rig.dial().send("GET /all HTTP/1.1", "Host: r", "Authorization: Bearer "+janesToken).response()

	rig.dial().send("GET /api HTTP/1.1", "Host: r")
	rig.ended(`culvert_relay_front_requests_total{kind="plain",code="2xx"} 1`)
	rig.dial().send("GET /api HTTP/1.1", "Host: r", "Authorization: Bearer forged")
	rig.ended(`culvert_relay_front_requests_total{kind="plain",code="4xx"} 1`)
	rig.dial().send("POST /api HTTP/1.1", "Host: r", "Authorization: Bearer forged", "Content-Length: 100")
	rig.ended(`culvert_relay_front_requests_total{kind="plain",code="4xx"} 2`)
	res, err := rig.client().Do(request(t, t.Context(), http.MethodGet, rig.relay.URL+"/api", nil)) // HTTP/2
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	rig.ended(`culvert_relay_front_requests_total{kind="plain",code="2xx"} 2`)

	if n, err := io.Copy(io.Discard, jane.Body); n != large || err != nil {
		t.Errorf("a caller who read nothing for a while got %d bytes, %v", n, err)
	}
}

// What the API server sends ahead of a caller who does not read is memory.
func TestAnswersThatNobodyReadsAreSmall(t *testing.T) {
	ahead := make(chan int, 1)
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, _ *http.Request) {
		n := 0
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		for block := make([]byte, 16<<10); ; n += len(block) {
			if _, err := w.Write(block); err != nil {
				ahead <- n
				return
			}
		}
	}})
	ctx := withCredential(t.Context(), anonymous())
	res, err := rig.kube.pass.RoundTrip(request(t, ctx, http.MethodGet, rig.api.URL+"/api", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n := <-ahead; n > 2*sendAhead {
		t.Errorf("%d bytes were sent ahead", n)
	}
}

// Who hears nothing before the relay goes is told so.
func TestRequestsOfARelayThatGoes(t *testing.T) {
	ctx, cut := context.WithCancelCause(t.Context())
	rig := newFrontRig(t, rigConfig{api: func(_ http.ResponseWriter, r *http.Request) {
		cut(&stream.Error{Code: stream.GoingAway})
		<-r.Context().Done()
	}})
	w := httptest.NewRecorder()
	rig.front.ServeHTTP(w, request(t, ctx, http.MethodGet, "https://relay.test/api", nil))
	if message, reason := statusOf(t, w.Body.String()); w.Code != http.StatusServiceUnavailable || reason != "ServiceUnavailable" || !strings.Contains(message, "shutting down") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// An Upgrade that names nothing is none, here and behind.
func TestUpgradeToNothing(t *testing.T) {
	rig := newFrontRig(t, rigConfig{plainAPI: true, api: func(http.ResponseWriter, *http.Request) {}})
	res := rig.dial().send("GET /api HTTP/1.1", "Host: r", "Connection: Upgrade", "Upgrade: ,").response()
	if sent := rig.only().Header; res.StatusCode != http.StatusOK || sent["Upgrade"] != nil || sent["Connection"] != nil {
		t.Errorf("%s, sent on with %v", res.Status, sent)
	}
}
