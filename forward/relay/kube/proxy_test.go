package kube

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// client is a client of the front that speaks HTTP/2.
func (r *frontRig) client() *http.Client {
	transport := &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// ask makes a request with jane's token.
func (r *frontRig) ask(ctx context.Context, method, path string, body io.Reader) *http.Request {
	r.t.Helper()
	q, err := http.NewRequestWithContext(ctx, method, r.relay.URL+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+janesToken)
	return q
}

// do sends q and returns the answer with all of its body.
func (r *frontRig) do(q *http.Request) (*reply, string) {
	r.t.Helper()
	res, err := r.client().Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return replyOf(res), string(body)
}

// statusOf reads a refusal.
func statusOf(t *testing.T, body string) (message, reason string) {
	t.Helper()
	var s struct {
		Kind, APIVersion, Status, Message, Reason string
		Code                                      int
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Kind != "Status" || s.APIVersion != "v1" || s.Status != "Failure" || s.Code == 0 {
		t.Errorf("no Status, %v: %s", err, body)
	}
	return s.Message, s.Reason
}

func TestPlainRequests(t *testing.T) {
	content := make([]byte, 5<<20)
	_, _ = rand.Read(content)
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		_, _ = io.Copy(sum, r.Body)
		h := w.Header()
		h.Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
		h.Set("Trailer", "X-Trailer")
		h.Add("Warning", `299 - "a"`)
		h.Add("Warning", `299 - "b"`)
		h.Set("Link", "</early>")
		w.WriteHeader(http.StatusEarlyHints)
		h.Del("Link")
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write(content)
		h.Set("X-Trailer", "behind")
	}})
	early := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints && h.Get("Link") == "</early>" {
			early++
		}
		return nil
	}})
	const path = "/api/v1/namespaces/n/services/s/proxy/a//b/../c%2Fd?x=a;b&fieldManager=m%20n&%zz"
	q := rig.ask(ctx, http.MethodPatch, path, bytes.NewReader(content))
	q.Header.Set("Kubectl-Session", "1")
	q.Header.Set("Te", "trailers")
	res, body := rig.do(q)
	sum := sha256.Sum256(content)
	if res.StatusCode != http.StatusConflict || body != string(content) || res.Header.Get("X-Sum") != fmt.Sprintf("%x", sum) {
		t.Errorf("status %s, %d bytes, sum %s", res.Status, len(body), res.Header.Get("X-Sum"))
	}
	if early != 1 || res.Trailer.Get("X-Trailer") != "behind" || len(res.Header["Warning"]) != 2 || res.Header.Get("Link") != "" {
		t.Errorf("%d early hints, trailer %q, header %q", early, res.Trailer, res.Header)
	}
	if res.ProtoMajor != 2 {
		t.Errorf("the client got %s", res.Proto)
	}
	seen := rig.only()
	if seen.ProtoMajor != 2 || seen.Method != http.MethodPatch || seen.RequestURI != path || seen.Host != strings.TrimPrefix(rig.api.URL, "https://") {
		t.Errorf("the API server saw %s %s %s for %s", seen.Proto, seen.Method, seen.RequestURI, seen.Host)
	}
	if seen.Header.Get("Kubectl-Session") != "1" || seen.Header.Get("Te") != "trailers" || seen.Header.Get("Accept-Encoding") != "" {
		t.Errorf("the API server saw %q", seen.Header)
	}
}

func TestPathOfTheAPIServerIsKept(t *testing.T) {
	rig := newFrontRig(t, rigConfig{
		api:  func(http.ResponseWriter, *http.Request) {},
		kube: func(c *Config) { c.APIServer += "/k8s/clusters/c1" },
	})
	rig.do(rig.ask(t.Context(), http.MethodGet, "/api/v1/pods%2F?watch=1", nil))
	if got := rig.only().RequestURI; got != "/k8s/clusters/c1/api/v1/pods%2F?watch=1" {
		t.Errorf("the API server saw %s", got)
	}
}

// An absolute URL and a Host header lead nowhere else.
func TestOnlyTheAPIServerIsReached(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(http.ResponseWriter, *http.Request) {}})
	elsewhere, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	address := elsewhere.Addr().String()
	rig.dial().send("GET http://"+address+"/api HTTP/1.1", "Host: "+address).response()
	rig.dial().send("GET /api HTTP/1.1", "Host: "+address).response()
	for _, q := range rig.requests("/") {
		if q.Host != strings.TrimPrefix(rig.api.URL, "https://") {
			t.Errorf("the API server was called %q", q.Host)
		}
	}
	if n := len(rig.requests("/")); n != 2 {
		t.Errorf("the API server saw %d requests", n)
	}
	if res := rig.dial().send("CONNECT "+address+" HTTP/1.1", "Host: "+address).response(); res.StatusCode != http.StatusBadRequest {
		t.Error(res.Status)
	}
}

// A watch is seen line by line, for as long as it lasts, and ends at the API
// server when its client is gone.
func TestWatchStreams(t *testing.T) {
	lines, gone := make(chan string), make(chan struct{})
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case line := <-lines:
				fmt.Fprintln(w, line)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), patienceInTests)
	defer cancel()
	go func() { lines <- "one" }() // the header comes with the first line
	res, err := rig.client().Do(rig.ask(ctx, http.MethodGet, "/api/v1/pods?watch=1", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for _, want := range []string{"one", "two", "three"} {
		if want != "one" {
			lines <- want
		}
		if got, err := r.ReadString('\n'); got != want+"\n" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	cancel()
	select {
	case <-gone:
	case <-time.After(patienceInTests):
		t.Error("the API server still serves a client that is gone")
	}
}

// An answer that is cut short must not look complete.
func TestCutAnswersAreNoAnswers(t *testing.T) {
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "half of")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}})
	res, err := rig.client().Do(rig.ask(t.Context(), http.MethodGet, "/api/v1/pods", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("read %q to its end", got)
	}
}

func TestRedirectsAreTheClients(t *testing.T) {
	elsewhere := newFrontRig(t, rigConfig{api: func(http.ResponseWriter, *http.Request) {}})
	rig := newFrontRig(t, rigConfig{api: func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.api.URL+"/stolen", http.StatusTemporaryRedirect)
	}})
	if res, _ := rig.do(rig.ask(t.Context(), http.MethodGet, "/api", nil)); res.StatusCode != http.StatusTemporaryRedirect {
		t.Error(res.Status)
	}
	res := rig.dial().send("GET /api HTTP/1.1", "Host: r", "Authorization: Bearer "+janesToken, "Connection: Upgrade", "Upgrade: websocket").response()
	if res.StatusCode != http.StatusTemporaryRedirect || !res.Close {
		t.Errorf("%s, close %t", res.Status, res.Close)
	}
	if n := len(elsewhere.requests("/")); n > 0 {
		t.Error("the relay followed a redirect")
	}
}

// Two readers of one request must not see two requests. What has both lengths is
// chunked for net/http, which lets the other one go no further.
func TestSmuggling(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n"
	for name, tt := range map[string]struct {
		request  string
		requests int // the API server may see
	}{
		"both lengths":    {"POST /api HTTP/1.1\r\nHost: r\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 2},
		"two lengths":     {"POST /api HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\nContent-Length: 37\r\n\r\n" + smuggled, 0},
		"odd coding":      {"POST /api HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n" + smuggled, 0},
		"coding by space": {"POST /api HTTP/1.1\r\nHost: r\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled, 0},
		"line in a name":  {"GET /api HTTP/1.1\r\nHost: r\r\nX\rY: 1\r\n\r\n", 0},
		"two hosts":       {"GET /api HTTP/1.1\r\nHost: r\r\nHost: s\r\n\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newFrontRig(t, rigConfig{plainAPI: true, api: func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
			}})
			c := rig.dial()
			if _, err := c.Write([]byte(tt.request)); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, c) // to its end: whatever is answered, the connection is closed
			seen := rig.requests("/")
			if len(seen) != tt.requests {
				t.Errorf("the API server saw %d requests, want %d", len(seen), tt.requests)
			}
			for _, q := range seen {
				if len(q.TransferEncoding) > 0 && (q.ContentLength >= 0 || q.Header.Get("Content-Length") != "") {
					t.Errorf("the API server saw both lengths: %v %d %q", q.TransferEncoding, q.ContentLength, q.Header)
				}
			}
		})
	}
}
