//go:build linux

package script

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
)

// chunk is how much of the pattern is written and compared at once.
const chunk = 256 << 10

// fill makes b the part of the pattern that begins at offset, which is a
// multiple of eight: each group of eight bytes is its own offset, as the source
// of podserver has it.
func fill(b []byte, offset int64) {
	for i := 0; i < len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], uint64(offset)+uint64(i))
	}
}

// pour writes n bytes of the pattern. moved is called after each chunk.
func pour(w io.Writer, n int64, moved func()) error {
	buf := make([]byte, chunk)
	for at := int64(0); at < n; at += chunk {
		fill(buf, at)
		if _, err := w.Write(buf[:min(chunk, n-at)]); err != nil {
			return fmt.Errorf("after %d bytes: %w", at, err)
		}
		moved()
	}
	return nil
}

// drain reads n bytes and compares them with the pattern. moved is called after
// each chunk.
func drain(r io.Reader, n int64, moved func()) error {
	got, want := make([]byte, chunk), make([]byte, chunk)
	for at := int64(0); at < n; at += chunk {
		part := min(chunk, n-at)
		if m, err := io.ReadFull(r, got[:part]); err != nil {
			return fmt.Errorf("after %d bytes: %w", at+int64(m), err)
		}
		fill(want, at)
		if string(got[:part]) != string(want[:part]) {
			return fmt.Errorf("the bytes after %d are not the right ones", at)
		}
		moved()
	}
	return nil
}

// noise returns n bytes that hold every value, the same at every call.
func noise(n int) []byte {
	var seed [32]byte
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// size reads a number of bytes: 100, 16MiB, 1GiB.
func size(text string) (int64, error) {
	digits, shift := text, 0
	for suffix, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if d, ok := strings.CutSuffix(text, suffix); ok {
			digits, shift = d, bits
		}
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no size", text)
	}
	return n << shift, nil
}
