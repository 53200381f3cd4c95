package stream

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// parseDirection reads a whole direction the slow and obvious way, without the
// code it is there to check. A cut is not an error here but Partial.
func parseDirection(wire []byte) (direction, error) {
	var d direction
	var data []byte
	for len(wire) > 0 {
		if d.ResetCode != 0 {
			return d, malformed("bytes after RESET")
		}
		if len(wire) < 4 {
			d.Partial = true
			break
		}
		kind, flags, n := wire[0], wire[1], int(binary.BigEndian.Uint16(wire[2:]))
		limits := map[byte][2]int{1: {0, 65520}, 2: {0, 0}, 3: {2, 1026}}
		limit, known := limits[kind]
		switch {
		case kind >= 4 && kind <= 15:
			return d, unsupported("reserved")
		case !known:
			return d, malformed("type")
		case flags != 0:
			return d, unsupported("flags")
		case n < limit[0] || n > limit[1]:
			return d, malformed("length")
		case d.Fin && kind != 3:
			return d, malformed("after FIN")
		}
		payload := wire[4:min(4+n, len(wire))]
		wire = wire[4+len(payload):]
		switch kind {
		case 1:
			data = append(data, payload...)
		case 2:
			d.Fin = true
		case 3:
			if len(payload) == n {
				d.ResetCode = Code(binary.BigEndian.Uint16(payload))
				d.ResetText = clean(string(payload[2:]))
				if d.ResetCode == 0 {
					return d, malformed("code 0")
				}
			}
		}
		d.Partial = len(payload) < n
	}
	d.Data = hex.EncodeToString(data)
	return d, nil
}

// checkScanner holds a Scanner, fed in chunks of the sizes that next returns,
// against parseDirection of the same bytes.
func checkScanner(t *testing.T, wire []byte, next func() int) {
	t.Helper()
	want, wantErr := parseDirection(wire)
	var s Scanner
	var err error
	for rest := wire; len(rest) > 0 && err == nil; {
		n := min(next(), len(rest))
		err = s.Scan(rest[:n])
		rest = rest[n:]
	}
	if outcome(err) != outcome(wantErr) {
		t.Fatalf("scan of %x: error %v, want %v", wire, err, wantErr)
	}
	if err != nil {
		if again := s.Scan([]byte{1}); again != err {
			t.Fatalf("scan after an error: %v, want %v again", again, err)
		}
		return
	}
	ended := want.Fin || want.ResetCode != 0
	if s.Payload() != int64(len(want.Data)/2) || s.Ended() != ended || s.Partial() != want.Partial {
		t.Fatalf("scan of %x: payload %d, ended %v, partial %v; want %+v",
			wire, s.Payload(), s.Ended(), s.Partial(), want)
	}
	reset := s.Reset()
	if (reset != nil) != (want.ResetCode != 0) {
		t.Fatalf("scan of %x: reset %v, want code %d", wire, reset, want.ResetCode)
	}
	if reset != nil && (reset.Code != want.ResetCode || reset.Text != want.ResetText) {
		t.Fatalf("scan of %x: reset %+v, want %+v", wire, reset, want)
	}
}

// randomDirection returns a well-formed direction with frames of all sizes.
func randomDirection(rng *rand.Rand) []byte {
	var wire []byte
	for range rng.IntN(6) {
		n := rng.IntN(40)
		if rng.IntN(4) == 0 {
			n = rng.IntN(MaxPayload + 1)
		}
		at := len(wire)
		wire = append(wire, make([]byte, HeaderSize+n)...)
		PutHeader(wire[at:], FrameData, n)
		for i := range n {
			wire[at+HeaderSize+i] = byte(rng.Uint32())
		}
	}
	if rng.IntN(2) == 0 {
		wire = append(wire, byte(FrameFin), 0, 0, 0)
	}
	if rng.IntN(2) == 0 {
		wire = AppendReset(wire, Code(1+rng.IntN(30)), string(make([]byte, rng.IntN(2*MaxText))))
	}
	return wire[:len(wire)-rng.IntN(min(len(wire), 5)+1)]
}

func TestScannerAgreesWithParser(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		wire := randomDirection(rng)
		limit := 1 + rng.IntN(1<<rng.IntN(18))
		checkScanner(t, wire, func() int { return 1 + rng.IntN(limit) })
	}
}

func TestScannerCountsUpToTheFault(t *testing.T) {
	var s Scanner
	wire := []byte{1, 0, 0, 3, 'a', 'b', 'c', 2, 0, 0, 0, 1, 0, 0, 1, 'x'}
	if err := s.Scan(wire); CodeOf(err) != Malformed {
		t.Fatalf("data after FIN: %v", err)
	}
	if s.Payload() != 3 {
		t.Errorf("payload %d, want the 3 bytes before the fault", s.Payload())
	}
}

func TestScannerDoesNotAllocate(t *testing.T) {
	chunk := make([]byte, HeaderSize+1000)
	PutHeader(chunk, FrameData, 1000)
	var s Scanner
	allocs := testing.AllocsPerRun(100, func() {
		for _, cut := range []int{0, 1, 3, 4, 500} {
			if s.Scan(chunk[:cut]) != nil || s.Scan(chunk[cut:]) != nil {
				t.Fatal("a good frame was refused")
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a run, want none", allocs)
	}
}

// BenchmarkScanner measures one 64 KiB chunk of a relayed stream: with the frames
// Culvert's own writers make, with small frames, and cut across frames.
func BenchmarkScanner(b *testing.B) {
	for _, bc := range []struct {
		name    string
		payload int
	}{{"full frames", MaxPayload}, {"1 KiB frames", 1020}, {"64 B frames", 60}} {
		b.Run(bc.name, func(b *testing.B) {
			const chunk = 64 << 10
			frame := make([]byte, HeaderSize+bc.payload)
			PutHeader(frame, FrameData, bc.payload)
			// A ring of whole frames whose length is no multiple of the chunk.
			var ring []byte
			for len(ring) < 8*chunk {
				ring = append(ring, frame...)
			}
			var s Scanner
			b.SetBytes(chunk)
			b.ReportAllocs()
			at := 0
			for b.Loop() {
				end := at + chunk
				if end > len(ring) {
					if err := s.Scan(ring[at:]); err != nil {
						b.Fatal(err)
					}
					at, end = 0, end-len(ring)
				}
				if err := s.Scan(ring[at:end]); err != nil {
					b.Fatal(err)
				}
				at = end
			}
		})
	}
}
