//go:build linux

package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// raw is a client that is let in and then breaks the rules:
//
//	raw connect               makes a session
//	raw open KIND             opens a stream of it in a wrong way; the answer becomes stdout
//	raw echo POD PORT TEXT    uses a stream of the same session as it should be
//	raw noise                 is let in anew and talks no mux; the relay must hang up
func (s *script) raw(ts *testscript.TestScript, args []string) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	switch {
	case len(args) == 1 && args[0] == "connect":
		carrier, err := s.enter(ctx)
		if err != nil {
			return err
		}
		s.session, err = tunnel.NewSession(carrier, true, tunnel.Config{})
		return err
	case len(args) == 2 && args[0] == "open":
		answer, err := s.openBadly(ctx, args[1])
		fmt.Fprintln(ts.Stdout(), answer)
		return err
	case len(args) == 4 && args[0] == "echo":
		return s.openWell(ctx, args[1], args[2], args[3])
	case len(args) == 1 && args[0] == "noise":
		return s.talkNoMux(ctx)
	}
	return errUsage(args)
}

// enter makes a connection that the relay has let in. The caller closes it.
func (s *script) enter(ctx context.Context) (_ *tunnel.Carrier, err error) {
	relay := s.cluster.Relay
	host, _, err := net.SplitHostPort(relay.Addr())
	if err != nil {
		return nil, err
	}
	tc, err := identity.ClientTLS(identity.ClientConfig{
		ServerName: host, ALPN: stream.ALPNClient, CAFile: relay.StateFile("ca.crt"),
	})
	if err != nil {
		return nil, err
	}
	token, err := identity.LoadToken(relay.StateFile("client-token"))
	if err != nil {
		return nil, err
	}
	conn, err := s.cluster.Client.Dial(ctx, relay.Addr())
	if err != nil {
		return nil, err
	}
	carrier, err := tunnel.HandshakeClient(ctx, conn, tc)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = carrier.Close()
		}
	}()
	_ = carrier.SetDeadline(time.Now().Add(patience))
	if err := stream.WriteHello(carrier, &stream.Hello{Credential: stream.CredentialToken, Token: token}); err != nil {
		return nil, err
	}
	reply, err := stream.ReadReply(carrier)
	if err != nil {
		return nil, err
	}
	_ = carrier.SetDeadline(time.Time{})
	return carrier, reply.Err()
}

// talkNoMux is let in and sends noise where frames should be.
func (s *script) talkNoMux(ctx context.Context) error {
	carrier, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer carrier.Close()
	_ = carrier.SetDeadline(time.Now().Add(patience))
	err = write(carrier, noise(64<<10))
	if err == nil {
		_, err = io.Copy(io.Discard, carrier)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the relay has not hung up: %w", err)
	}
	return nil
}

// openings are first messages that no good client sends.
func openings() map[string][]byte {
	head := func(kind stream.Kind, n int) []byte { return []byte{stream.Version, byte(kind), byte(n >> 8), byte(n)} }
	fixed := make([]byte, 18) // the id, and a port
	fixed[17] = 80
	field := append([]byte{0x01, 0, 64}, strings.Repeat("n", 64)...) // a namespace, one byte too long
	return map[string][]byte{
		"oversized":  append(head(stream.KindForward, 0xffff), make([]byte, 0xffff)...),
		"short":      append(head(stream.KindForward, 3), "abc"...),
		"long-name":  append(append(head(stream.KindForward, len(fixed)+len(field)), fixed...), field...),
		"stray":      append(append(head(stream.KindForward, len(fixed)+1), fixed...), 0x01),
		"overflow":   append(append(head(stream.KindForward, len(fixed)+3), fixed...), 0x01, 0xff, 0xff),
		"no-port":    append(head(stream.KindForward, 18), make([]byte, 18)...),
		"kind":       append(head(99, len(fixed)), fixed...),
		"version":    {0, byte(stream.KindForward), 0, 0},
		"http":       []byte("GET / HTTP/1.1\r\nHost: relay\r\n\r\n"),
		"noise":      noise(100 << 10),
		"unfinished": append(head(stream.KindForward, 100), "abc"...),
		"nothing":    nil,
	}
}

// openBadly opens a stream, sends what is no Open and finishes, and returns the
// code and the text of the answer.
func (s *script) openBadly(ctx context.Context, kind string) (string, error) {
	b, ok := openings()[kind]
	if !ok || s.session == nil {
		return "", errUsage([]string{kind})
	}
	st, err := s.session.Open(ctx)
	if err != nil {
		return "", err
	}
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(patience))
	// The relay may answer and end the stream before it has got everything.
	werr := errors.Join(write(st, b), st.CloseWrite())
	reply, err := stream.ReadReply(st)
	if err != nil {
		return "", fmt.Errorf("%s got no answer: %w", kind, errors.Join(err, werr))
	}
	if reply.Code == stream.OK {
		return "", fmt.Errorf("%s was accepted", kind)
	}
	return reply.Code.String() + ": " + reply.Text, nil
}

// openWell sends text to an echo service and reads it back.
func (s *script) openWell(ctx context.Context, pod, port, text string) error {
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return err
	}
	st, err := s.session.Open(ctx)
	if err != nil {
		return err
	}
	_ = st.SetDeadline(time.Now().Add(patience))
	open := &stream.Open{Kind: stream.KindForward, ID: stream.NewID(), Namespace: "default", Pod: pod, Port: uint16(number)}
	if err := stream.WriteOpen(st, open); err != nil {
		return errors.Join(err, st.Reset())
	}
	c := tunnel.NewConn(st)
	defer c.Close()
	c.ExpectReply()
	if err := write(c, []byte(text)); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != text {
		err = fmt.Errorf("got %q, want %q", got, text)
	}
	return err
}
