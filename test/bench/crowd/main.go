// Crowd is a thousand nodes in one process: real agents without pods, each with a
// name, a certificate and a tunnel of its own.
//
//	crowd -agents 1000 -relay HOST:PORT -relay-ca FILE -dir DIRECTORY [-tokens]
//
// It writes the authority of its certificates to DIRECTORY/ca.pem, or reads a token
// for each from DIRECTORY/NAME.token. It prints "made", and begins when it reads a line. It prints "all" each time all agents have
// become ready, and "some" each time the first one is no longer. It ends with
// SIGTERM.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-k8s/culvert/agent"
	"github.com/culvert-k8s/culvert/agent/reach"
	"github.com/culvert-k8s/culvert/agent/sandbox"
	"github.com/culvert-k8s/culvert/forward/tunnel/identity"
)

// lookEvery is how often it is counted how many agents are ready.
const lookEvery = 10 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "crowd:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

func run(ctx context.Context) error {
	n := flag.Int("agents", 1000, "how many there are")
	relay := flag.String("relay", "", "`address` of the relay")
	ca := flag.String("relay-ca", "", "`file` with the relay's authority; may come late")
	dir := flag.String("dir", "", "`directory` for certificates; must exist")
	tokens := flag.Bool("tokens", false, "agents show tokens instead of certificates")
	flag.Parse()
	identities := certificates
	if *tokens {
		identities = shown
	}
	agents, err := recruit(*n, *relay, *ca, *dir, identities)
	if err != nil {
		return err
	}
	fmt.Println("made")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the relay: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, a := range agents {
		g.Go(func() error { return a.Run(ctx) })
	}
	g.Go(func() error { return watch(ctx, agents) })
	return g.Wait()
}

// watch tells how they are until ctx ends.
func watch(ctx context.Context, agents []*agent.Agent) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	all := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		ready := 0
		for _, a := range agents {
			if a.Ready() {
				ready++
			}
		}
		switch now := ready == len(agents); {
		case now && !all:
			fmt.Println("all")
			all = true
		case !now && all:
			fmt.Println("some")
			all = false
		}
	}
}

// identities makes what agents show, in their order.
type identities func(names []string, trust agent.Trust, dir string) ([]agent.Identity, error)

// recruit makes the agents.
func recruit(n int, relay, relayCA, dir string, of identities) ([]*agent.Agent, error) {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("crowd-%04d", i))
	}
	all, err := of(names, agent.Trust{CAFile: relayCA}, dir)
	if err != nil {
		return nil, err
	}
	var agents []*agent.Agent
	for i, name := range names {
		a, err := agent.New(agent.Config{
			Node: name, Relays: []string{relay}, Identity: all[i], Pods: &reach.Local{Source: noPods{}, Dialer: &reach.NetnsDialer{}},
		})
		if err != nil {
			return nil, err
		}
		agents = append(agents, a)
	}
	return agents, nil
}

// shown are tokens in files that are there.
func shown(names []string, trust agent.Trust, dir string) ([]agent.Identity, error) {
	var all []agent.Identity
	for _, name := range names {
		all = append(all, &agent.Token{Trust: trust, File: filepath.Join(dir, name+".token")})
	}
	return all, nil
}

// certificates makes one for each, and their authority.
func certificates(names []string, trust agent.Trust, dir string) ([]agent.Identity, error) {
	ca, key, err := authority()
	if err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", ca.Raw); err != nil {
		return nil, err
	}
	// One key for all: what is measured does not depend on it.
	shared, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(shared)
	if err != nil {
		return nil, err
	}
	keyFile := filepath.Join(dir, "key.pem")
	if err := writePEM(keyFile, "PRIVATE KEY", der); err != nil {
		return nil, err
	}
	var all []agent.Identity
	for i, name := range names {
		file := filepath.Join(dir, name+".pem")
		cert, err := x509.CreateCertificate(rand.Reader, leaf(int64(i+2), name), ca, shared.Public(), key)
		if err != nil {
			return nil, err
		}
		if err := writePEM(file, "CERTIFICATE", cert); err != nil {
			return nil, err
		}
		all = append(all, &agent.Certificate{Trust: trust, CertFile: file, KeyFile: keyFile})
	}
	return all, nil
}

func authority() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := leaf(1, "crowd")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	template.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	return ca, key, err
}

func leaf(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		Subject:     pkix.Name{CommonName: name, Organization: []string{identity.OrgNodes}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// noPods are the pods of a node without any.
type noPods struct{}

func (noPods) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (noPods) Lookup(context.Context, string) (sandbox.Pod, error) {
	return sandbox.Pod{}, sandbox.ErrNotFound
}

func (noPods) List() []sandbox.Pod { return nil }

func (noPods) Changed() <-chan struct{} { return nil }

func (noPods) Ready() error { return nil }
