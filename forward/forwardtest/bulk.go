package forwardtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/culvert-k8s/culvert/forward"
)

// bulkCases move many bytes.
var bulkCases = []testCase{
	{"large transfer both ways", largeBothWays},
	{"buffers are not kept", buffersNotKept},
}

// settle gives the other goroutines time to get as far as they can before something is done to them. Nothing
// fails if it is too short; the case is then only less sharp. In a synctest bubble it is exact.
func settle() { time.Sleep(20 * time.Millisecond) }

// largeBothWays sends a different random stream each way at the same time, in random pieces, and compares
// hashes.
func largeBothWays(a, b forward.Conn) error {
	size := 16 << 20
	if testing.Short() {
		size = 1 << 20
	}
	way := func(from, to forward.Conn, seed byte) error {
		sent, got := sha256.New(), sha256.New()
		err := both(a, b,
			func() error { return sendRandom(from, io.MultiWriter(sent), seed, size) },
			func() error { return receiveRandom(to, got, seed) })
		if err == nil && string(sent.Sum(nil)) != string(got.Sum(nil)) {
			err = errors.New("the bytes read are not those written")
		}
		return err
	}
	return both(a, b,
		func() error { return way(a, b, 1) },
		func() error { return way(b, a, 2) })
}

func sendRandom(c forward.Conn, hash io.Writer, seed byte, size int) error {
	src := rand.NewChaCha8([32]byte{seed})
	sizes := rand.New(rand.NewPCG(uint64(seed), 1))
	buf := make([]byte, 100<<10)
	for size > 0 {
		p := buf[:min(size, 1+pieceSize(sizes, len(buf)))]
		_, _ = src.Read(p)
		_, _ = hash.Write(p)
		if err := send(c, p, false); err != nil {
			return err
		}
		size -= len(p)
	}
	return finishWrite(c)
}

func receiveRandom(c forward.Conn, hash io.Writer, seed byte) error {
	sizes := rand.New(rand.NewPCG(uint64(seed), 2))
	buf := make([]byte, 100<<10)
	for {
		p := buf[:1+pieceSize(sizes, len(buf))]
		n, err := c.Read(p)
		_, _ = hash.Write(p[:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
}

// pieceSize returns a number below limit; one in four is small, where the edges are.
func pieceSize(r *rand.Rand, limit int) int {
	if r.IntN(4) == 0 {
		return r.IntN(64)
	}
	return r.IntN(limit)
}

// buffersNotKept: the writer spoils its buffer as soon as Write returns.
func buffersNotKept(a, b forward.Conn) error {
	const rounds, size = 64, 8 << 10
	write := func() error {
		p := make([]byte, size)
		for i := range rounds {
			fill(p, byte(i))
			if err := send(a, p, false); err != nil {
				return err
			}
			fill(p, 0xee)
		}
		return finishWrite(a)
	}
	read := func() error {
		want := make([]byte, size)
		for i := range rounds {
			fill(want, byte(i))
			if err := expect(b, want); err != nil {
				return fmt.Errorf("piece %d: %w", i, err)
			}
		}
		return expectEOF(b)
	}
	return both(a, b, write, read)
}

func fill(p []byte, v byte) {
	for i := range p {
		p[i] = v
	}
}
