package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/culvert-k8s/culvert/agent/broker"
	"github.com/culvert-k8s/culvert/cmd/internal/boot"
)

// brokerFlags are the flags of "culvert-agent broker".
type brokerFlags struct {
	podFlags
	socket              string
	uid                 int
	drain               time.Duration
	logFormat, logLevel string
}

func (f *brokerFlags) register(fl *flag.FlagSet) {
	f.podFlags.register(fl)
	fl.StringVar(&f.socket, "socket", "/run/culvert/broker.sock", "`path` of the socket to answer on, in a directory that only the agent sees besides")
	fl.IntVar(&f.uid, "uid", 0, "`number` of the user that the agent runs as: nobody else may ask")
	fl.DurationVar(&f.drain, "drain-timeout", 40*time.Second, "how long an agent that is still connected is answered after SIGTERM: longer than it drains itself")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (f *brokerFlags) check() error {
	switch {
	case f.socket == "":
		return errors.New("--socket is empty: give it a path")
	case f.uid < 0:
		return fmt.Errorf("--uid %d is no user", f.uid)
	case f.drain < 0:
		return fmt.Errorf("--drain-timeout %v is negative", f.drain)
	}
	return f.podFlags.check()
}

// serveBroker hands sockets to an agent that has no powers of its own.
func serveBroker(args []string, stderr io.Writer) error {
	f := &brokerFlags{}
	if err := parse(f, "culvert-agent broker", args, stderr); err != nil {
		return err
	}
	log, err := boot.Logger(stderr, f.logFormat, f.logLevel)
	if err != nil {
		return err
	}
	pods, err := f.local(log)
	if err != nil {
		return err
	}
	s, err := broker.New(broker.Config{
		Pods: pods, UID: f.uid, MaxConns: broker.ConnsFor(f.maxDials), Linger: f.drain, Log: log,
	})
	if err != nil {
		return err
	}
	ctx, stop := boot.Context()
	defer stop()
	l, err := broker.Listen(f.socket)
	if err != nil {
		return err
	}
	log.Info("broker starts", "socket", f.socket, "uid", f.uid, "version", boot.Version(version))
	return s.Serve(ctx, l)
}
