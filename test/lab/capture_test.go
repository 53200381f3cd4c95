//go:build linux

package lab

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pingPong exchanges rounds messages of size bytes over one connection and
// closes it, the dialling side first.
func pingPong(t *testing.T, s *Namespace, address string, rounds, size int) Flow {
	t.Helper()
	conn, err := s.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(longEnough))
	message := bytes.Repeat([]byte("x"), size)
	for range rounds {
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			t.Fatal(err)
		}
	}
	conn.CloseWrite()
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		t.Fatalf("after the end: %q, %v", rest, err)
	}
	local, _ := netip.ParseAddrPort(conn.LocalAddr().String())
	remote, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return Flow{Src: local, Dst: remote}
}

// startCapture starts a capture that is killed at the latest with the test.
func startCapture(t *testing.T, s *Namespace, cfg CaptureConfig) *Capture {
	t.Helper()
	c, err := s.Capture(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCaptureSeesPingPong(t *testing.T) {
	n := ForTest(t, "left", "right")
	left, right := n.Host("left"), n.Host("right")
	startEcho(t, right.Namespace, "0.0.0.0:7000")
	captures := map[string]*Capture{
		"left eth0":  startCapture(t, left.Namespace, CaptureConfig{}),
		"right eth0": startCapture(t, right.Namespace, CaptureConfig{Filter: "tcp port 7000"}),
		"right any":  startCapture(t, right.Namespace, CaptureConfig{Interface: "any", Snaplen: 96}),
	}
	silent := startCapture(t, right.Namespace, CaptureConfig{Interface: "lo"})
	const rounds, size = 20, 100
	flow := pingPong(t, left.Namespace, right.Addr().String()+":7000", rounds, size)
	for name, c := range captures {
		t.Run(name, func(t *testing.T) {
			packets, err := c.Packets()
			if err != nil {
				t.Fatal(err)
			}
			if dials := Dials(packets); len(dials) != 1 || dials[0] != flow {
				t.Errorf("dials %v, want %v", dials, flow)
			}
			counts := CountFlows(packets)
			for _, way := range []Flow{flow, flow.Reverse()} {
				if got := counts[way]; got.WithPayload != rounds || got.PayloadBytes != rounds*size {
					t.Errorf("%v: %+v", way, got)
				}
			}
			if len(counts) != 2 {
				t.Errorf("%d flows: %v", len(counts), counts)
			}
			fins := Select(packets, func(p *Packet) bool { return p.IsTCP() && p.Is(FIN) })
			if len(fins) != 2 || fins[0].Src != flow.Src {
				t.Errorf("FIN packets: %v", fins)
			}
			if InPayload(packets, bytes.Repeat([]byte("x"), 60)) == (name == "right any") {
				t.Error("payload is not what was sent")
			}
		})
	}
	if packets, err := silent.Packets(); err != nil || len(packets) != 0 {
		t.Errorf("loopback carried %d packets, %v", len(packets), err)
	}
	if _, err := captures["left eth0"].Stop(); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

// TestCaptureIsComplete moves more than any buffer holds and wants every byte.
func TestCaptureIsComplete(t *testing.T) {
	n := ForTest(t, "h")
	pod, err := n.Host("h").Pod(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	startEcho(t, pod.Namespace, "0.0.0.0:80")
	heads := startCapture(t, pod.Namespace, CaptureConfig{Interface: "lo", Snaplen: 128})
	whole := startCapture(t, pod.Namespace, CaptureConfig{Interface: "lo"})
	outside := startCapture(t, pod.Namespace, CaptureConfig{})
	// What the buffer holds of whole packets of this size, should tcpdump not get
	// to run at all. Bulk is for captures of heads.
	const rounds, size = 40, 64 << 10
	flow := pingPong(t, pod.Namespace, "127.0.0.1:80", rounds, size)
	for _, c := range []*Capture{heads, whole} {
		packets, err := c.Packets()
		if err != nil {
			t.Fatal(err)
		}
		if got := streamBytes(packets, flow); got != rounds*size {
			t.Errorf("%s has %d bytes, want %d", c.File(), got, rounds*size)
		}
	}
	if packets, err := outside.Packets(); err != nil || len(packets) != 0 {
		t.Errorf("eth0 carried %d packets, %v", len(packets), err)
	}
}

// streamBytes counts the bytes of one direction that were captured without a gap,
// each once: on a busy machine the kernel sends the last one again to be sure.
func streamBytes(packets []Packet, flow Flow) int64 {
	var next uint32
	var total int64
	for _, p := range packets {
		if p.Src != flow.Src || p.Dst != flow.Dst || !p.IsTCP() {
			continue
		}
		if p.Is(SYN) {
			next = p.Seq + 1
			continue
		}
		if fresh := int32(p.Seq + uint32(p.PayloadLen) - next); int32(p.Seq-next) <= 0 && fresh > 0 {
			total += int64(fresh)
			next += uint32(fresh)
		}
	}
	return total
}

func TestCaptureRefusesNonsense(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	for _, cfg := range []CaptureConfig{{Interface: "nosuch0"}, {Filter: "this is no filter ("}} {
		if c, err := h.Capture(t.Context(), cfg); err == nil {
			c.Stop()
			t.Errorf("capturing %+v", cfg)
		}
	}
}

func TestReadPcapOfNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "empty.pcap")
	if err := os.WriteFile(path, []byte("not a capture at all, but long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPcap(path); err == nil {
		t.Error("read a file that is no capture")
	}
}
