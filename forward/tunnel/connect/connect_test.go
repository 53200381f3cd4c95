package connect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/proto/stream"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"relay.test"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{stream.ALPNClient},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
	return server, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
}

// listen serves every connection with handle until the test ends.
func listen(t *testing.T, handle func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			handle(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// relay answers a Hello with answer, then serves one echo stream after another.
func relay(t *testing.T, answer func(*stream.Hello) *stream.Reply) (addr string, tc *tls.Config) {
	t.Helper()
	sc, cc := testTLS(t)
	addr = listen(t, func(raw net.Conn) {
		car, err := tunnel.HandshakeServer(context.Background(), raw, sc)
		if err != nil {
			return
		}
		hello, err := stream.ReadHello(car)
		if err != nil {
			car.Close()
			return
		}
		reply := answer(hello)
		if stream.WriteReply(car, reply) != nil || reply.Code != stream.OK {
			car.Close()
			return
		}
		s, err := tunnel.NewSession(car, false, tunnel.Config{})
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.Serve(ctx, func(st *tunnel.Stream) {
			if _, err := stream.ReadOpen(st); err == nil {
				io.Copy(st, st)
			}
			st.Close()
		})
		s.Close()
	})
	return addr, cc
}

func welcome(*stream.Hello) *stream.Reply { return &stream.Reply{Code: stream.OK} }

// dial dials and checks by an echo that what it got works.
func dial(t *testing.T, d *Dialer, addr string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := d.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer s.Close()
	st, err := Open(ctx, s, &stream.Open{Kind: stream.KindForward, Namespace: "default", Pod: "web", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	st.SetDeadline(time.Now().Add(patience))
	if _, err := st.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(st, got); err != nil || string(got) != "hello" {
		t.Fatalf("echo: %q, %v", got, err)
	}
	return nil
}

func TestDialPresentsItsCredential(t *testing.T) {
	seen := make(chan stream.Hello, 2)
	addr, tc := relay(t, func(h *stream.Hello) *stream.Reply { seen <- *h; return welcome(h) })
	d := &Dialer{TLS: tc, ALPN: stream.ALPNClient}
	if err := dial(t, d, addr); err != nil {
		t.Fatal(err)
	}
	if h := <-seen; h.Credential != stream.CredentialTLS || h.Token != "" {
		t.Errorf("without a Hello: %v", h.Credential)
	}
	d.Hello = func() (*stream.Hello, error) {
		return &stream.Hello{Credential: stream.CredentialToken, Token: "secret"}, nil
	}
	if err := dial(t, d, addr); err != nil {
		t.Fatal(err)
	}
	if h := <-seen; h.Credential != stream.CredentialToken || h.Token != "secret" {
		t.Errorf("got %v %q", h.Credential, h.Token)
	}
}

func TestDialRefused(t *testing.T) {
	addr, tc := relay(t, func(*stream.Hello) *stream.Reply {
		return &stream.Reply{Code: stream.Unauthenticated, Text: "who are you"}
	})
	err := dial(t, &Dialer{TLS: tc, ALPN: stream.ALPNClient}, addr)
	if coded := (*stream.Error)(nil); !errors.As(err, &coded) || coded.Code != stream.Unauthenticated || coded.Text != "who are you" {
		t.Errorf("got %v", err)
	}
}

func TestDialFails(t *testing.T) {
	noToken := errors.New("no such file")
	plain, other := testTLS(t)
	plain.NextProtos = nil
	for _, c := range []struct {
		name   string
		dialer func(tc *tls.Config) *Dialer
		relay  func(net.Conn)
		want   func(error) bool
	}{
		{"hello cannot be made", func(tc *tls.Config) *Dialer {
			return &Dialer{TLS: tc, ALPN: stream.ALPNClient, Hello: func() (*stream.Hello, error) { return nil, noToken }}
		}, nil, func(err error) bool { return errors.Is(err, noToken) }},
		{"relay refuses the protocol", func(tc *tls.Config) *Dialer { return &Dialer{TLS: tc, ALPN: "something/9"} },
			nil, func(err error) bool { return strings.Contains(err.Error(), "application protocol") }},
		{"another server", func(*tls.Config) *Dialer { return &Dialer{TLS: other, ALPN: stream.ALPNClient} },
			func(c net.Conn) { tc := tls.Server(c, plain); tc.Handshake(); io.Copy(io.Discard, tc) },
			func(err error) bool { return errors.Is(err, ErrNotRelay) }},
		{"untrusted", func(*tls.Config) *Dialer { return &Dialer{ALPN: stream.ALPNClient} },
			nil, func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) }},
		{"no tls", func(tc *tls.Config) *Dialer { return &Dialer{TLS: tc, ALPN: stream.ALPNClient} },
			func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH\r\n"); io.Copy(io.Discard, c) },
			func(err error) bool { return errors.As(err, new(tls.RecordHeaderError)) }},
		{"hangs up after hello", func(tc *tls.Config) *Dialer { return &Dialer{TLS: other, ALPN: stream.ALPNClient} },
			func(c net.Conn) {
				sc := plain.Clone()
				sc.NextProtos = []string{stream.ALPNClient}
				tc := tls.Server(c, sc)
				stream.ReadHello(tc)
				tc.Close()
			},
			func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, tc := relay(t, welcome)
			if c.relay != nil {
				addr = listen(t, c.relay)
			}
			if err := dial(t, c.dialer(tc), addr); err == nil || !c.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Whatever stage a dial is at, it ends with its context.
func TestDialEndsWithItsContext(t *testing.T) {
	sc, cc := testTLS(t)
	silent := func(net.Conn) {}
	for _, c := range []struct {
		name  string
		proxy bool
		peer  func(c net.Conn, reached func())
	}{
		{"proxy", true, func(_ net.Conn, reached func()) { reached() }},
		{"tls", false, func(_ net.Conn, reached func()) { reached() }},
		{"hello", false, func(c net.Conn, reached func()) {
			tc := tls.Server(c, sc)
			if _, err := stream.ReadHello(tc); err == nil {
				reached()
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cause := errors.New("not wanted any more")
			ctx, cancel := context.WithCancelCause(context.Background())
			addr := listen(t, func(conn net.Conn) {
				silent(conn)
				c.peer(conn, func() { cancel(cause) })
				io.Copy(io.Discard, conn) // until the dialler hangs up
			})
			d := &Dialer{TLS: cc, ALPN: stream.ALPNClient}
			target := addr
			if c.proxy {
				target = "relay.test:7443"
				d.Proxy = func(*url.URL) (*url.URL, error) { return &url.URL{Scheme: "http", Host: addr}, nil }
			}
			failed := make(chan error, 1)
			go func() { _, err := d.Dial(ctx, target); failed <- err }()
			select {
			case err := <-failed:
				if !errors.Is(err, cause) {
					t.Errorf("got %v, want the cause", err)
				}
			case <-time.After(patience):
				t.Fatal("hangs")
			}
		})
	}
	t.Run("before it began", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := (&Dialer{TLS: cc, ALPN: stream.ALPNClient}).Dial(ctx, "127.0.0.1:1"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
