package traffic

import (
	"bytes"
	"encoding/binary"
)

// fill makes b the part of the endless stream of that seed that begins at offset.
// No two streams are alike, and none repeats itself: a byte that is lost, doubled,
// moved or of another connection is seen where it happens.
func fill(b []byte, seed uint64, offset int64) {
	var word [8]byte
	for len(b) > 0 {
		at := offset % 8
		if at == 0 && len(b) >= 8 {
			binary.LittleEndian.PutUint64(b, mix(seed+uint64(offset/8)))
			b, offset = b[8:], offset+8
			continue
		}
		binary.LittleEndian.PutUint64(word[:], mix(seed+uint64(offset/8)))
		n := copy(b, word[at:])
		b, offset = b[n:], offset+int64(n)
	}
}

// mix is the finalizer of splitmix64, which spreads neighbours over all bits.
func mix(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// firstWrong returns where got is not the stream of that seed at offset, -1 if it
// is. scratch is at least as long as got.
func firstWrong(got, scratch []byte, seed uint64, offset int64) int64 {
	want := scratch[:len(got)]
	fill(want, seed, offset)
	if bytes.Equal(got, want) {
		return -1
	}
	for i := range got {
		if got[i] != want[i] {
			return offset + int64(i)
		}
	}
	return -1
}
