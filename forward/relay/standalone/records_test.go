package standalone

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-k8s/culvert/proto/stream"
)

func TestLimitOfNodes(t *testing.T) {
	b := newBed(t)
	b.Close()
	cfg := b.config()
	cfg.MaxNodes = 2
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.State = s
	defer b.Close()
	key := newKey(t)
	b.join(t, key, "node-1")
	b.join(t, key, "node-2")
	_, _, err = b.IssueNode(csrFor(t, key, "node-3"))
	wantCode(t, "third", err, stream.Overloaded)
	b.join(t, key, "node-2") // a known one is no new one
	if err := Forget(b.dir, "node-1"); err != nil {
		t.Fatal(err)
	}
	b.join(t, key, "node-3") // the other process made room
	_, _, err = b.IssueNode(csrFor(t, key, "node-4"))
	wantCode(t, "third again", err, stream.Overloaded)
	if err := b.Forget("node-3"); err != nil {
		t.Fatal(err)
	}
	b.join(t, key, "node-4")
}

// A damaged record keeps its name taken, says what to do, and harms no other.
func TestDamagedRecord(t *testing.T) {
	b := newBed(t)
	key := newKey(t)
	cert, fine := b.join(t, key, "node-1"), b.join(t, key, "node-2")
	for _, content := range []string{"", "{}", "junk", `{"key":"sha256:00"}`, strings.Repeat(" ", maxFile+1)} {
		put(t, b.path(nodesDir, "node-1"), content)
		b.reopen(t)
		_, err := b.VerifyNode(cert)
		wantCode(t, "verify", err, stream.Internal)
		_, _, err = b.IssueNode(csrFor(t, newKey(t), "node-1"))
		wantCode(t, "join", err, stream.Internal)
		if _, err := b.VerifyNode(fine); err != nil {
			t.Fatal(err)
		}
		if nodes, err := b.Nodes(); err != nil || len(nodes) != 2 || nodes[0].Key != "" || nodes[1].Key == "" {
			t.Fatalf("%+v, %v", nodes, err)
		}
	}
	put(t, b.path(nodesDir, "NOT-A-NODE~"), "editors leave such files")
	if err := b.Forget("node-1"); err != nil {
		t.Fatal(err)
	}
	b.join(t, newKey(t), "node-1")
	if nodes, err := b.Nodes(); err != nil || len(nodes) != 2 {
		t.Fatalf("%+v, %v", nodes, err)
	}
}

// A record that cannot be made durable means that no certificate leaves.
func TestIssueNodeNeedsTheDisk(t *testing.T) {
	b := newBed(t)
	if err := os.RemoveAll(b.path(nodesDir)); err != nil {
		t.Fatal(err)
	}
	chain, _, err := b.IssueNode(csrFor(t, newKey(t), "node-1"))
	wantCode(t, "without a directory", err, stream.Internal)
	if chain != nil {
		t.Fatal("certificate without a record")
	}
}

func TestManyNodes(t *testing.T) {
	b := newBed(t)
	key := newKey(t)
	const n = 200
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < n; i += 4 {
				der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: fmt.Sprintf("node-%d", i)}}, key)
				if err == nil {
					_, _, err = b.IssueNode(der)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.reopen(t)
	if nodes, err := b.Nodes(); err != nil || len(nodes) != n || b.nodes.count != n {
		t.Fatalf("%d nodes, counted %d, %v", len(nodes), b.nodes.count, err)
	}
}
