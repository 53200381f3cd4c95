package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-k8s/culvert/forward/relay/audit"
)

// toStdout in the place of a file's name means standard output.
const toStdout = "-"

// openAudit opens the audit log, where a flag wants one.
func (p *parts) openAudit(f *serveFlags, stdout io.Writer) (err error) {
	if f.auditLog == "" {
		return nil
	}
	cfg := audit.Config{Path: f.auditLog, Required: f.auditRequired, Report: func(err error) {
		if err != nil {
			p.cfg.Log.Error("audit log", "err", err, "required", f.auditRequired)
		} else {
			p.cfg.Log.Info("audit log is written again")
		}
	}}
	if f.auditLog == toStdout {
		cfg.Path, cfg.Out = "", stdout
	}
	p.audit, err = audit.Open(cfg)
	p.cfg.Audit = p.audit
	return err
}

// reopenAudit has the audit log opened anew at each SIGHUP.
func (p *parts) reopenAudit(ctx context.Context) error {
	if p.audit == nil {
		<-ctx.Done()
		return nil
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			p.audit.Reopen()
		case <-ctx.Done():
			return nil
		}
	}
}
