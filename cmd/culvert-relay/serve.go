package main

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/cmd/internal/boot"
	"github.com/culvert-k8s/culvert/forward/relay"
	"github.com/culvert-k8s/culvert/forward/relay/audit"
	"github.com/culvert-k8s/culvert/forward/relay/kube"
	"github.com/culvert-k8s/culvert/forward/relay/kube/keeper"
	"github.com/culvert-k8s/culvert/forward/relay/policy"
	"github.com/culvert-k8s/culvert/forward/relay/standalone"
	"github.com/culvert-k8s/culvert/forward/tunnel"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

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
	p, err := f.assemble(log, stdout)
	if err != nil {
		return err
	}
	defer p.close()
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return err
	}
	log.Info("relay listens", "addr", l.Addr().String(), "relay_id", p.srv.ID(), "version", p.cfg.Version)
	return p.serve(ctx, l, f.health, f.debug)
}

// parts are what a relay is put together from. What the flags do not ask for is
// nil.
type parts struct {
	srv    *relay.Server
	state  *standalone.State
	kube   *kube.Kube
	keeper *keeper.Keeper
	policy *policy.File
	audit  *audit.Log

	metrics *metrics
	report  func(error) // hears of credentials that went wrong

	// What srv is made of.
	cfg   relay.Config
	tls   identity.ServerConfig
	creds *relay.Credentials
}

// assemble puts the relay together from the flags. The caller closes it.
func (f *serveFlags) assemble(log *slog.Logger, stdout io.Writer) (_ *parts, err error) {
	p := &parts{
		creds: &relay.Credentials{}, metrics: newMetrics(),
		report: func(err error) { log.Warn("credentials", "err", err) },
		cfg: relay.Config{
			Version: boot.Version(version), Log: log, DrainTimeout: max(f.drain, 1), // 0 would mean the default
			Tunnel: tunnel.Config{Memory: &tunnel.Memory{Limit: boot.MemoryLimit() / 4}}, // others have the rest
		},
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.cfg.Peers, err = f.peers.peers(f.listen); err != nil {
		return nil, err
	}
	if err := p.openAudit(f, stdout); err != nil {
		return nil, err
	}
	if p.cfg.Limits, err = parseLimits(f.limits); err != nil {
		return nil, err
	}
	if err := p.openState(f); err != nil {
		return nil, err
	}
	if err := p.loadPKI(f); err != nil {
		return nil, err
	}
	if err := p.setUpKube(&f.kube, f.advertise, log); err != nil {
		return nil, err
	}
	if err := p.loadPolicy(f); err != nil {
		return nil, err
	}
	p.cfg.Auth = p.authenticator(f)
	if p.cfg.TLS, err = identity.ServerTLS(p.tls); err != nil {
		return nil, err
	}
	p.metrics.certificate(p.tls.GetCertificate)
	p.srv, err = relay.New(p.cfg)
	return p, err
}

// close gives back what the parts hold. Nothing may be served any more.
func (p *parts) close() {
	if p.kube != nil {
		_ = p.kube.Close()
	}
	if p.state != nil {
		_ = p.state.Close()
	}
	if err := p.audit.Close(); err != nil {
		p.cfg.Log.Error("audit log", "err", err)
	}
}

// ready tells whether the relay takes streams, and could prove to its peers that
// it is one.
func (p *parts) ready() bool { return p.srv.Ready() && (p.keeper == nil || p.keeper.Ready()) }

// serve runs the relay, and until it has ended what it needs.
func (p *parts) serve(ctx context.Context, l net.Listener, health, debug string) error {
	g, ctx := errgroup.WithContext(ctx)
	done, finish := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer finish()
		return p.srv.Serve(ctx, l)
	})
	h := &boot.Health{Ready: p.ready, Metrics: p.page().Write, Listening: func(a net.Addr) {
		p.cfg.Log.Info("health listens", "addr", a.String())
	}}
	g.Go(func() error { return h.Serve(done, health) })
	d := &boot.Debug{Listening: func(a net.Addr) { p.cfg.Log.Info("profiles listen", "addr", a.String()) }}
	g.Go(func() error { return d.Serve(done, debug) })
	g.Go(func() error { return p.reopenAudit(done) })
	if p.keeper != nil {
		g.Go(func() error { return p.keeper.Run(done) })
	}
	if p.policy != nil {
		g.Go(func() error { return p.policy.Run(done) })
	}
	return g.Wait()
}
