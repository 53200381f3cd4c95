package forwardtest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/culvert-k8s/culvert/forward"
)

// frameCases are the contract of forward.FrameWriter; skipped if the Conn is none.
var frameCases = []testCase{
	{"frame: payload of every size", frameSizes},
	{"frame: mixed with plain writes", frameMixed},
	{"frame: after an abort", func(a, b forward.Conn) error {
		w, ok := a.(forward.FrameWriter)
		if !ok {
			return fmt.Errorf("FrameWriter: %w", errNotOffered)
		}
		if err := a.Reset(errOnPurpose); err != nil {
			return err
		}
		if n, err := w.WriteFrame(make([]byte, forward.Headroom+1)); n != 0 || err == nil {
			return fmt.Errorf("frame after a reset: %d, %v", n, err)
		}
		return nil
	}},
	{"frame: after finish", func(a, b forward.Conn) error {
		w, ok := a.(forward.FrameWriter)
		if !ok {
			return fmt.Errorf("FrameWriter: %w", errNotOffered)
		}
		if err := finishWrite(a); err != nil {
			return err
		}
		if n, err := w.WriteFrame(make([]byte, forward.Headroom+1)); n != 0 || err == nil {
			return fmt.Errorf("frame after finish: %d, %v", n, err)
		}
		return nil
	}},
}

// writeFrame sends payload as a frame, checks what came of the buffer, and spoils it.
func writeFrame(w forward.FrameWriter, payload []byte) error {
	b := append(make([]byte, forward.Headroom), payload...)
	n, err := w.WriteFrame(b)
	if err != nil || n != len(payload) {
		return fmt.Errorf("frame of %d bytes: %d, %w", len(payload), n, err)
	}
	if !bytes.Equal(b[forward.Headroom:], payload) {
		return fmt.Errorf("frame of %d bytes: the payload was changed", len(payload))
	}
	fill(b, 0xee)
	return nil
}

func frameSizes(a, b forward.Conn) error {
	w, ok := a.(forward.FrameWriter)
	if !ok {
		return fmt.Errorf("FrameWriter: %w", errNotOffered)
	}
	sizes := []int{1, 0, 2, 255, 256, 0, 4095, 16 << 10, 65519, forward.MaxFrame, 0}
	payload := func(i int) []byte {
		p := make([]byte, sizes[i])
		fill(p, byte(i+1))
		return p
	}
	return both(a, b,
		func() error {
			for i := range sizes {
				if err := writeFrame(w, payload(i)); err != nil {
					return err
				}
			}
			return finishWrite(a)
		},
		func() error {
			for i := range sizes {
				if err := expect(b, payload(i)); err != nil {
					return fmt.Errorf("frame %d: %w", i, err)
				}
			}
			return expectEOF(b)
		})
}

func frameMixed(a, b forward.Conn) error {
	w, ok := a.(forward.FrameWriter)
	if !ok {
		return fmt.Errorf("FrameWriter: %w", errNotOffered)
	}
	return both(a, b,
		func() error {
			return errors.Join(send(a, []byte("plain "), false), writeFrame(w, []byte("framed ")), send(a, []byte("plain"), true))
		},
		func() error { return errors.Join(expect(b, []byte("plain framed plain")), expectEOF(b)) })
}
