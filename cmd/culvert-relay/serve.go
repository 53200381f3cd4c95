package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/standalone"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
	"github.com/culvert-k8s/culvert/proto/stream"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	listen, health      string
	stateDir            string
	advertise           boot.List
	tlsCert, tlsKey     string
	agentCA, clientCA   string
	drain               time.Duration
	logFormat, logLevel string
}

func (f *serveFlags) register(fl *flag.FlagSet) {
	fl.StringVar(&f.listen, "listen", ":7443", "address for agents and clients")
	fl.StringVar(&f.health, "health-listen", "127.0.0.1:7480", "address of /healthz, /readyz and /metrics; empty for none")
	fl.StringVar(&f.stateDir, "state-dir", "", "directory of the relay's own authority, tokens and node names; made if needed")
	fl.Var(&f.advertise, "advertise", "`host[:port]` that agents and clients dial, for the relay's own certificate; may be repeated")
	fl.StringVar(&f.tlsCert, "tls-cert", "", "certificate of the relay (PEM), instead of one of its own authority")
	fl.StringVar(&f.tlsKey, "tls-key", "", "key of --tls-cert (PEM)")
	fl.StringVar(&f.agentCA, "agent-ca", "", "authorities of node certificates (PEM), instead of the relay's own; O=culvert:nodes, CN=node name")
	fl.StringVar(&f.clientCA, "client-ca", "", "authorities of client certificates (PEM); CN=user, O=groups")
	fl.DurationVar(&f.drain, "drain-timeout", 30*time.Second, "how long running streams may go on after SIGTERM")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (f *serveFlags) check() error {
	switch {
	case f.drain < 0:
		return errors.New("--drain-timeout is negative")
	case f.stateDir == "" && len(f.advertise) > 0:
		return errors.New("--advertise is for the certificate of the relay's own authority, which needs --state-dir")
	case f.stateDir == "" && f.agentCA == "":
		return errors.New("agents could not prove who they are: give --state-dir for an authority of the relay's own, or --agent-ca")
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key belong together")
	case f.stateDir == "" && f.tlsCert == "":
		return errors.New("the relay has no certificate: give --state-dir or --tls-cert and --tls-key")
	case f.stateDir == "" && f.clientCA == "":
		return errors.New("clients could not prove who they are: give --state-dir for a client token, or --client-ca")
	}
	return nil
}

// serve runs the relay until ctx ends.
func serve(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var f serveFlags
	fl := flag.NewFlagSet("culvert-relay serve", flag.ContinueOnError)
	f.register(fl)
	if err := parse(fl, args, stdout); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	log, err := boot.Logger(stderr, f.logFormat, f.logLevel)
	if err != nil {
		return err
	}
	cfg, release, err := f.config(log)
	if err != nil {
		return err
	}
	defer release()
	srv, err := relay.New(cfg)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return err
	}
	log.Info("relay listens", "addr", l.Addr().String(), "relay_id", srv.ID(), "version", cfg.Version)
	return serveAll(ctx, srv, l, f.health, log)
}

// serveAll runs the relay, and its health endpoints until the relay has ended.
func serveAll(ctx context.Context, srv *relay.Server, l net.Listener, health string, log *slog.Logger) error {
	g, ctx := errgroup.WithContext(ctx)
	done, finish := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer finish()
		return srv.Serve(ctx, l)
	})
	h := &boot.Health{Ready: srv.Ready, Metrics: srv.WriteMetrics, Listening: func(a net.Addr) {
		log.Info("health listens", "addr", a.String())
	}}
	g.Go(func() error { return h.Serve(done, health) })
	return g.Wait()
}

// config puts the relay together from the flags. release closes what it holds.
func (f *serveFlags) config(log *slog.Logger) (_ relay.Config, release func(), err error) {
	report := func(err error) { log.Warn("credentials", "err", err) }
	cfg := relay.Config{Version: boot.Version(version), Log: log, DrainTimeout: max(f.drain, 1)} // 0 would mean the default
	creds := &relay.Credentials{}
	tc := identity.ServerConfig{}
	release = func() {}
	if f.stateDir != "" {
		st, err := standalone.Open(standalone.Config{Dir: f.stateDir, Advertise: f.advertise, Report: report})
		if err != nil {
			return cfg, nil, err
		}
		release = func() { _ = st.Close() }
		tc.GetCertificate = st.GetCertificate
		tc.AgentCAs = st.CAPool
		creds.Node, creds.JoinToken, creds.ClientToken = st.VerifyNode, st.CheckJoinToken, st.CheckClientToken
		cfg.Issuer = st
		log.Info("state", "dir", f.stateDir, "ca_pin", st.Pin())
	}
	if err := f.ownPKI(&tc, creds, &cfg, report); err != nil {
		release()
		return cfg, nil, err
	}
	cfg.Auth = creds
	if cfg.TLS, err = identity.ServerTLS(tc); err != nil {
		release()
		return cfg, nil, err
	}
	return cfg, release, nil
}

// ownPKI puts certificates from elsewhere in the place of the relay's own.
func (f *serveFlags) ownPKI(tc *identity.ServerConfig, creds *relay.Credentials, cfg *relay.Config, report func(error)) error {
	watch := identity.WatchConfig{Report: report}
	if f.tlsCert != "" {
		pair, err := identity.LoadKeyPair(f.tlsCert, f.tlsKey, watch)
		if err != nil {
			return err
		}
		tc.GetCertificate = pair.GetCertificate
	}
	if f.agentCA != "" {
		cas, err := identity.LoadCAs(f.agentCA, watch)
		if err != nil {
			return err
		}
		tc.AgentCAs = cas.Pool
		creds.Node = func(c *x509.Certificate) (string, error) {
			name, err := identity.NameOf(c, identity.RoleNode)
			return name, refusal(err)
		}
		creds.JoinToken, cfg.Issuer = nil, nil
	}
	if f.clientCA != "" {
		cas, err := identity.LoadCAs(f.clientCA, watch)
		if err != nil {
			return err
		}
		tc.ClientCAs = cas.Pool
		creds.User = func(c *x509.Certificate) (identity.Peer, error) {
			p, err := identity.PeerOf(c)
			return p, refusal(err)
		}
	}
	return nil
}

// refusal makes what is wrong with a certificate an answer to who showed it.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	return &stream.Error{Code: stream.Unauthenticated, Text: err.Error()}
}
