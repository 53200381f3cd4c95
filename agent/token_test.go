package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// tokenHead begins every token of these tests: {"alg":"none"}.
const tokenHead = "eyJhbGciOiJub25lIn0."

// newToken makes a token that is not signed. n tells it from others.
func newToken(from, to time.Time, n int) string {
	claims := fmt.Sprintf(`{"iat":%d,"exp":%d,"jti":"%d"}`, from.Unix(), to.Unix(), n)
	return tokenHead + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

// kubelet puts a token into a file as the kubelet does: at once.
func kubelet(t testing.TB, file, token string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// tokenRegistry is a relay's registry in memory.
type tokenRegistry struct {
	controlv1.RegistryClient
	answer func(token string) (*controlv1.RenewResponse, error) // nil: yes
	mu     sync.Mutex
	shown  []string
}

func (r *tokenRegistry) Renew(_ context.Context, req *controlv1.RenewRequest, _ ...grpc.CallOption) (*controlv1.RenewResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shown = append(r.shown, req.GetToken())
	if r.answer != nil {
		return r.answer(req.GetToken())
	}
	return &controlv1.RenewResponse{}, nil
}

func (*tokenRegistry) token(n int) string { return newToken(time.Now(), time.Now().Add(time.Hour), n) }

// TestTokenFollowsTheKubelet keeps one tunnel for a day while the kubelet replaces
// tokens of an hour, a little after four fifths of it. Each is shown once, well
// before the one before it ends.
func TestTokenFollowsTheKubelet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		reg, log := &tokenRegistry{}, &journal{}
		var late time.Duration
		var end time.Time // of the token that the relay knows
		reg.answer = func(token string) (*controlv1.RenewResponse, error) {
			if left := time.Until(end); left < 8*time.Minute {
				t.Errorf("a new token %v before the end of the old one", left)
			}
			late = max(late, time.Since(lifeOf(token).from))
			end = lifeOf(token).to
			return &controlv1.RenewResponse{}, nil
		}
		kubelet(t, file, reg.token(0))
		end = time.Now().Add(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				time.Sleep(48*time.Minute + time.Duration(n%90)*time.Second) // its own round takes up to 90 s
				kubelet(t, file, reg.token(n))
			}
		})
		renewOne(ctx, t, file, reg, log)
		cancel()
		all.Wait()
		if n := len(reg.shown); n < 28 || n > 30 {
			t.Errorf("%d tokens shown in a day", n)
		}
		for i := 1; i < len(reg.shown); i++ {
			if reg.shown[i] == reg.shown[i-1] {
				t.Error("one token shown twice")
			}
		}
		if late > maxTokenPause {
			t.Errorf("a token was %v old before it was shown", late)
		}
		if strings.Contains(log.String(), tokenHead) || strings.Contains(log.String(), "WARN") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// renewOne runs the renewals of one tunnel until ctx ends.
func renewOne(ctx context.Context, t testing.TB, file string, reg *tokenRegistry, log *journal) {
	t.Helper()
	shown := &shownToken{file: file, token: mustRead(t, file)}
	u := &uplink{relay: "r:1", log: log.logger(), shown: Credential{RenewAt: lifeOf(shown.token).due(time.Now())}}
	u.shown.Renew = func(ctx context.Context, _ controlv1.RegistryClient) (time.Time, error) { return shown.renew(ctx, reg) }
	var err error
	u.agent, err = New(Config{Node: "n", Relays: []string{"r:1"}, Pods: local(nil), Identity: &Token{}, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	u.renew(ctx)
}

func mustRead(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTokenRenewals lets a renewal go each of its ways.
func TestTokenRenewals(t *testing.T) {
	verdict := func(code codes.Code) func(string) (*controlv1.RenewResponse, error) {
		return func(token string) (*controlv1.RenewResponse, error) {
			return nil, status.Error(code, "relay says of "+token+": no")
		}
	}
	at := func(d time.Duration) func(string) (*controlv1.RenewResponse, error) {
		return func(string) (*controlv1.RenewResponse, error) {
			return &controlv1.RenewResponse{RenewAt: timestamppb.New(time.Now().Add(d))}, nil
		}
	}
	const hour, gone = time.Hour, -1
	for _, tt := range []struct {
		name     string
		left     time.Duration // of the token that was shown
		next     time.Duration // life of the next one; 0: there is none; gone: the file is missing
		answer   func(string) (*controlv1.RenewResponse, error)
		min, max time.Duration // until the next renewal
		err      string
		calls    int // two renewals
	}{
		{"no new one yet", 12 * time.Minute, 0, nil, 30 * time.Second, time.Minute, errSameToken.Error(), 0},
		{"no new one, and soon over", 4 * time.Minute, 0, nil, 30 * time.Second, time.Minute, "still holds the token that ends at", 0},
		{"no new one, and nearly over", 10 * time.Second, 0, nil, minTokenPause, 10 * time.Second, "kubelet", 0},
		{"over", -hour, 0, nil, minTokenPause, 10 * time.Second, "kubelet", 0},
		{"no file", 12 * time.Minute, gone, nil, 30 * time.Second, time.Minute, "read the agent's token", 0},
		{"taken", 12 * time.Minute, hour, nil, 48 * time.Minute, 48 * time.Minute, "", 1},
		{"the relay wants it sooner", 12 * time.Minute, hour, at(20 * time.Minute), 20 * time.Minute, 20 * time.Minute, "", 1},
		{"the relay wants it at once", 12 * time.Minute, hour, at(-hour), minTokenPause, minTokenPause, "", 1},
		{"the relay wants it too late", 12 * time.Minute, hour, at(1000 * hour), 54 * time.Minute, 54 * time.Minute, "", 1},
		{"not served", 12 * time.Minute, hour, verdict(codes.Unimplemented), 48 * time.Minute, 48 * time.Minute, "does not take", 1},
		{"not allowed", 12 * time.Minute, hour, verdict(codes.PermissionDenied), 48 * time.Minute, 48 * time.Minute, "relay says of [token]: no", 1},
		{"unavailable", 12 * time.Minute, hour, verdict(codes.Unavailable), 30 * time.Second, time.Minute, "relay says of [token]: no", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "token")
			synctest.Test(t, func(t *testing.T) {
				reg := &tokenRegistry{answer: tt.answer}
				now := time.Now()
				shown := &shownToken{file: file, token: newToken(now.Add(tt.left-hour), now.Add(tt.left), 0)}
				switch tt.next {
				case gone:
				case 0:
					kubelet(t, file, shown.token)
				default:
					kubelet(t, file, newToken(now, now.Add(tt.next), 1))
				}
				next, err := shown.renew(t.Context(), reg)
				if wait := next.Sub(now); wait < tt.min || wait > tt.max {
					t.Errorf("again in %v, want %v to %v", wait, tt.min, tt.max)
				}
				if text := fmt.Sprint(err); tt.err != "" && !strings.Contains(text, tt.err) || tt.err == "" && err != nil || strings.Contains(text, tokenHead) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				shown.renew(t.Context(), reg)
				if len(reg.shown) != tt.calls {
					t.Errorf("%d calls, want %d", len(reg.shown), tt.calls)
				}
			})
		})
	}
}

// TestTokenOverATunnel shows one token to make a tunnel and the next to keep it;
// the tunnel after that shows the newest from its start.
func TestTokenOverATunnel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	now := time.Now()
	// Due in a second; should the test be slower than that, again in 5 to 10.
	first, next := newToken(now.Add(-18*time.Second), now.Add(6*time.Second), 1), newToken(now, now.Add(time.Hour), 2)
	kubelet(t, file, first)
	r := startRelay(t, &relay{token: func(token string) (*controlv1.RenewResponse, error) {
		return nil, status.Error(codes.PermissionDenied, "not "+token)
	}})
	a := start(t, Config{Identity: &Token{Trust: Trust{CAPin: r.ca.pin()}, File: file}}, r)
	l := r.tunnel(t, 1)
	kubelet(t, file, next)
	r.await(t, "the next token is shown", func() bool { return len(l.tokens) == 2 })
	if l.tokens[0] != first || l.tokens[1] != next {
		t.Error("other tokens were shown")
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(a.log.String(), "not [token]") })
	if l.sess.Err() != nil || !a.Ready() {
		t.Errorf("a token that is refused over the tunnel ends it: %v", l.sess.Err())
	}
	l.stop()
	if second := r.tunnel(t, 2); second.tokens[0] != next {
		t.Error("the next tunnel shows the old token")
	}
	if strings.Contains(a.log.String(), tokenHead) {
		t.Errorf("a token is in the log:\n%s", a.log)
	}
}

// TestTokenFilesComeLate starts an agent as a pod may start: the volumes of the
// token and of the relay's authority are empty. It says what it waits for, and is
// not ready but well.
func TestTokenFilesComeLate(t *testing.T) {
	r := startRelay(t, &relay{})
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	a := start(t, Config{Identity: &Token{Trust: Trust{CAFile: ca}, File: token}, MaxBackoff: 10 * time.Millisecond}, r)
	says := func(want string) {
		t.Helper()
		eventually(t, "the log says "+want, func() bool { return strings.Contains(a.log.String(), want) })
	}
	says(ca + ": no such file or directory: waiting until the relay's authority is written there")
	kubelet(t, ca, "")
	says("load authorities " + ca + ": holds no certificate: waiting until the relay's authority is written there")
	if a.Ready() {
		t.Error("ready without a tunnel")
	}
	other, _, _ := newAuthority(t).files(t, "node-1")
	kubelet(t, ca, mustRead(t, other))
	says(token + ": no such file or directory")
	kubelet(t, token, newToken(time.Now(), time.Now().Add(time.Hour), 1))
	says("certificate signed by unknown authority")
	right, _, _ := r.ca.files(t, "node-1")
	kubelet(t, ca, mustRead(t, right))
	r.tunnel(t, 1)
	eventually(t, "it is ready", a.Ready)
	if n := len(a.log.lines("credentials")); n > 0 || strings.Contains(a.log.String(), tokenHead) {
		t.Errorf("log:\n%s", a.log)
	}
}

// TestTokenRefused shows the token that is there each time.
func TestTokenRefused(t *testing.T) {
	k := &Token{Trust: Trust{CAPin: newAuthority(t).pin()}, File: filepath.Join(t.TempDir(), "token")}
	for n := range 2 {
		want := newToken(time.Now(), time.Now().Add(time.Hour), n)
		kubelet(t, k.File, want)
		c, err := k.For(t.Context(), "relay.example:7443", nil)
		if err != nil {
			t.Fatal(err)
		}
		if hello, err := c.Hello(); err != nil || hello.Token != want || c.TLS.ServerName != "relay.example" {
			t.Errorf("hello %v, %v; server name %s", hello, err, c.TLS.ServerName)
		}
		if due := time.Until(c.RenewAt); due < 47*time.Minute || due > 48*time.Minute {
			t.Errorf("due in %v", due)
		}
		if c.Refused != nil {
			t.Error("a refusal would be told to somebody")
		}
	}
}

func TestLifeOf(t *testing.T) {
	claims := func(s string) string { return tokenHead + base64.RawURLEncoding.EncodeToString([]byte(s)) + ".x" }
	now := time.Unix(1_000_000, 0)
	for _, tt := range []struct {
		name, token string
		due         time.Duration
	}{
		{"both dates", claims(`{"iat":1000000,"exp":1003600}`), 48 * time.Minute},
		{"half read", claims(`{"iat":996400,"exp":1003600}`), 36 * time.Minute},
		{"fractions", claims(`{"iat":1000000.9,"exp":1.0036e6}`), 48 * time.Minute},
		{"no beginning", claims(`{"exp":1003600}`), 48 * time.Minute},
		{"ends before it begins", claims(`{"iat":1009999,"exp":1003600}`), time.Hour},
		{"over", claims(`{"iat":990000,"exp":1000000}`), -2000 * time.Second},
		{"no end", claims(`{"iat":1000000}`), tokenLife},
		{"far end", claims(`{"exp":1e300}`), tokenLife},
		{"too far for a number", claims(`{"exp":1e999}`), tokenLife},
		{"before time", claims(`{"exp":-5}`), tokenLife},
		{"a word", claims(`{"exp":"soon"}`), tokenLife},
		{"not JSON", claims(`{"exp"`), tokenLife},
		{"not base64", tokenHead + "!.x", tokenLife},
		{"two parts", "a.b", tokenLife},
		{"four parts", claims(`{"exp":1003600}`) + ".y", tokenLife},
		{"no token of this kind", "0123456789abcdef", tokenLife},
		{"empty", "", tokenLife},
		{"long", claims(`{"exp":1003600,"x":"` + strings.Repeat("x", maxClaims) + `"}`), tokenLife},
	} {
		if due := lifeOf(tt.token).due(now).Sub(now); due != tt.due {
			t.Errorf("%s: due in %v, want %v", tt.name, due, tt.due)
		}
	}
}

func FuzzLifeOf(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(newToken(now, now.Add(time.Hour), 1), int64(0))
	f.Add("a.eyJleHAiOjF9.b", int64(1<<60))
	f.Fuzz(func(t *testing.T, token string, wanted int64) {
		l := lifeOf(token)
		if p := l.pause(now); p < minTokenPause || p > tokenLife {
			t.Errorf("pause %v", p)
		}
		if !l.to.IsZero() && l.due(now).After(l.to) || l.due(now).Before(time.Unix(-1<<34, 0)) {
			t.Errorf("due at %v, ends at %v", l.due(now), l.to)
		}
		next := l.bound((&timestamppb.Timestamp{Seconds: wanted}).AsTime(), now)
		if next.After(now.Add(minTokenPause)) && !l.to.IsZero() && next.After(l.to) {
			t.Errorf("next at %v, ends at %v", next, l.to)
		}
	})
}

// TestConceal keeps what else a relay says.
func TestConceal(t *testing.T) {
	err := status.Error(codes.Unavailable, "down")
	if got := conceal(err, "t0ken"); !errors.Is(got, err) {
		t.Errorf("%v", got)
	}
	if got := conceal(errors.New("bad t0ken, t0ken here"), "t0ken").Error(); got != "bad [token], [token] here" {
		t.Error(got)
	}
}
