package tunnel

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// script is a connection whose reads are given by a reader.
type script struct {
	net.Conn
	r     io.Reader
	reads int
}

func (s *script) Read(p []byte) (int, error) { s.reads++; return s.r.Read(p) }

func TestRecordsAreGathered(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		w := &wire{}
		c := newRecordConn(w)
		var want []byte
		for range 20 {
			held := rnd.IntN(2) == 0
			before := len(w.writes)
			if held {
				c.hold()
			}
			total := 0
			for range 1 + rnd.IntN(20) {
				p := make([]byte, rnd.IntN(17<<10))
				pattern(int64(len(want)), p)
				want = append(want, p...)
				total += len(p)
				if n, err := c.Write(p); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := c.flush(); err != nil {
				t.Fatal(err)
			}
			if most := 1 + total/gatherLimit; held && len(w.writes)-before > most {
				t.Errorf("%d bytes held took %d writes, want at most %d", total, len(w.writes)-before, most)
			}
		}
		if got := bytes.Join(w.writes, nil); !bytes.Equal(got, want) || c.written.Load() != int64(len(want)) {
			t.Fatalf("%d bytes written, %d counted, want %d", len(got), c.written.Load(), len(want))
		}
		c.trim()
		if c.gather != nil {
			t.Error("an empty buffer is kept")
		}
	}
}

// crypto/tls reads more than one record at once, so that nothing has to do it beneath.
func TestTLSReadsAhead(t *testing.T) {
	x, y := tcpPair(t)
	defer x.Close()
	defer y.Close()
	sc, cc := testTLS(t)
	out, in := &wire{Conn: x}, &script{Conn: y, r: y}
	client, server := tls.Client(out, cc), tls.Server(in, sc)
	done := result(server.Handshake)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "handshake", done); err != nil {
		t.Fatal(err)
	}
	const total = 1 << 20
	out.writes, out.Conn = nil, nil // from here on everything is there before it is read
	for range total / bigChunk {
		if _, err := client.Write(make([]byte, bigChunk)); err != nil {
			t.Fatal(err)
		}
	}
	in.r, in.reads = bytes.NewReader(bytes.Join(out.writes, nil)), 0
	if n, err := io.CopyN(io.Discard, server, total); err != nil {
		t.Fatal(n, err)
	}
	if most := total / (24 << 10); in.reads > most {
		t.Errorf("%d records took %d reads, want at most %d", total/bigChunk, in.reads, most)
	}
}
