package tunnel

import (
	"bytes"
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

func TestReadAheadGivesOutWhatCame(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		data := make([]byte, 256<<10)
		pattern(0, data)
		var sizes []byte
		for range 100 {
			sizes = append(sizes, byte(rnd.IntN(256)))
		}
		var r io.Reader = bytes.NewReader(data)
		if seed%2 == 0 {
			r = &chunks{data: data, sizes: sizes}
		}
		c := newRecordConn(&script{r: r})
		var got []byte
		for {
			p := make([]byte, 1+rnd.IntN(20<<10))
			if rnd.IntN(10) == 0 {
				p = make([]byte, 200<<10)
			}
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				if err != io.EOF {
					t.Fatal(err)
				}
				break
			}
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("seed %d: %d bytes came, or others", seed, len(got))
		}
	}
}

func TestReadAheadComesWithBulkAndGoesWithCalm(t *testing.T) {
	s := &script{r: bytes.NewReader(make([]byte, 1<<20))}
	c := newRecordConn(s)
	p := make([]byte, 16<<10)
	for range 40 {
		if _, err := io.ReadFull(c, p); err != nil {
			t.Fatal(err)
		}
	}
	if c.ahead == nil || s.reads > 10 {
		t.Errorf("640 KiB took %d reads", s.reads)
	}
	s.r = bytes.NewReader(nil)
	io.Copy(io.Discard, c)
	s.r = &chunks{data: make([]byte, 1000), sizes: []byte{40}}
	for range calmReads + 1 {
		if _, err := c.Read(p); err != nil {
			t.Fatal(err)
		}
	}
	if c.ahead != nil {
		t.Error("the buffer stays though only small reads came")
	}
}
