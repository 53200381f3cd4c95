//go:build linux

package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// captureTimeout bounds starting and stopping tcpdump.
	captureTimeout = 20 * time.Second
	// minSnaplen lets the marker of the end through whole.
	minSnaplen = 64
	// markerType is the EtherType of the frame that marks the end of a capture:
	// one that IEEE 802 keeps free for private experiments.
	markerType = 0x88b5
)

// ErrPacketsLost reports a capture that does not hold every packet.
var ErrPacketsLost = errors.New("capture lost packets")

// CaptureConfig says what to capture.
type CaptureConfig struct {
	// Interface is a device of the namespace, or "any". Empty means eth0.
	Interface string
	// Filter is a pcap filter expression; empty captures everything.
	Filter string
	// Snaplen is how many bytes of each packet are kept, at least 64; 0 means all
	// of them. 128 is enough for all headers, and the choice for bulk transfers:
	// above about 1 GB/s whole packets outrun tcpdump, which Stop then reports.
	Snaplen int
	// File is the name of the pcap file within the artefacts; empty means one
	// made from a number, the namespace and the interface.
	File string
}

// Capture is a tcpdump that is writing a pcap file.
type Capture struct {
	space *Namespace
	dev   string
	file  string
	proc  *Process
	stats CaptureStats
	err   error
	ended bool
}

// CaptureStats is what tcpdump says at its end.
type CaptureStats struct {
	// Captured packets are in the file. Dropped ones did not fit into the
	// kernel's buffer.
	Captured, Dropped int
}

// Capture starts a capture in the namespace and returns when it is running:
// every packet from then on is recorded. The caller stops it.
func (s *Namespace) Capture(ctx context.Context, cfg CaptureConfig) (*Capture, error) {
	c := &Capture{space: s, dev: cfg.Interface, file: cfg.File}
	if c.dev == "" {
		c.dev = "eth0"
	}
	if c.file == "" {
		c.file = fmt.Sprintf("%03d-%s-%s.pcap", s.net.nextSerial(), s.label, c.dev)
	}
	c.file = filepath.Join(s.net.artifacts, c.file)
	filter := cfg.Filter
	if filter != "" {
		filter = fmt.Sprintf("(%s) or ether proto %#x", filter, markerType)
	}
	if cfg.Snaplen > 0 {
		cfg.Snaplen = max(cfg.Snaplen, minSnaplen)
	}
	args := []string{"-i", c.dev, "-n", "-U", "--immediate-mode", "-B", "32768", "-Z", "root",
		"-s", strconv.Itoa(cfg.Snaplen), "-w", c.file}
	if filter != "" {
		args = append(args, filter)
	}
	var err error
	if c.proc, err = s.Start(ctx, "tcpdump", args...); err != nil {
		return nil, fmt.Errorf("capture %s in %s: %w", c.dev, s.label, err)
	}
	if _, err := c.proc.WaitLine(regexp.MustCompile("listening on"), captureTimeout); err != nil {
		c.proc.Kill()
		return nil, fmt.Errorf("capture %s in %s: %w", c.dev, s.label, err)
	}
	return c, nil
}

// File returns the path of the pcap file.
func (c *Capture) File() string { return c.file }

// Stop ends the capture when every packet sent so far is in the file. It returns
// ErrPacketsLost if the kernel dropped any. Idempotent; not for use by two
// goroutines at once.
func (c *Capture) Stop() (CaptureStats, error) {
	if !c.ended {
		c.ended = true
		if c.stats, c.err = c.stop(); c.err != nil {
			c.err = fmt.Errorf("stop capture of %s in %s: %w", c.dev, c.space.label, c.err)
		}
	}
	return c.stats, c.err
}

func (c *Capture) stop() (CaptureStats, error) {
	defer c.proc.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), captureTimeout)
	defer cancel()
	if err := c.drain(ctx); err != nil {
		return CaptureStats{}, err
	}
	if err := c.proc.Signal(syscall.SIGINT); err != nil {
		return CaptureStats{}, err
	}
	if err := c.proc.Wait(ctx); err != nil {
		return CaptureStats{}, err
	}
	var stats CaptureStats
	for re, into := range map[string]*int{
		`^(\d+) packets? captured`:          &stats.Captured,
		`^(\d+) packets? dropped by kernel`: &stats.Dropped,
	} {
		match, err := c.proc.WaitLine(regexp.MustCompile(re), captureTimeout)
		if err != nil {
			return stats, err
		}
		*into, _ = strconv.Atoi(match[1])
	}
	if stats.Dropped > 0 {
		return stats, fmt.Errorf("%w: %d dropped by the kernel", ErrPacketsLost, stats.Dropped)
	}
	return stats, nil
}

// drain sends a marker frame and waits until it is in the file. What waits in
// the kernel's buffer at the end of tcpdump is lost, and only the arrival of a
// later packet proves that nothing waits there.
func (c *Capture) drain(ctx context.Context) error {
	var nonce [16]byte
	rand.Read(nonce[:])
	dev := c.dev
	if dev == "any" {
		dev = "lo"
	}
	if err := c.space.Do(func() error { return sendMarker(dev, nonce[:]) }); err != nil {
		return fmt.Errorf("send marker: %w", err)
	}
	f, err := os.Open(c.file)
	if err != nil {
		return err
	}
	defer f.Close()
	return awaitMarker(ctx, f, nonce[:])
}

// sendMarker sends a frame that no bridge passes on from the calling thread's
// namespace.
func sendMarker(dev string, nonce []byte) error {
	link, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// To the address of the nearest bridge, which never forwards it.
	frame := []byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e, 0, 0, 0, 0, 0, 0}
	copy(frame[6:], link.HardwareAddr)
	frame = binary.BigEndian.AppendUint16(frame, markerType)
	frame = append(frame, nonce...)
	frame = append(frame, make([]byte, 60-len(frame))...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
}

// awaitMarker reads the growing file until the marker's nonce is in it.
func awaitMarker(ctx context.Context, f io.Reader, nonce []byte) error {
	var seen []byte
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		seen = append(seen, buf[:n]...)
		if bytes.Contains(seen, nonce) {
			return nil
		}
		seen = append(seen[:0], seen[max(0, len(seen)-len(nonce)):]...)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n > 0 {
			continue
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return fmt.Errorf("wait for marker: %w", err)
		}
	}
}

// Packets stops the capture if it is still running and returns what it saw, in
// order. Frames that mark the end of a capture, this one or one at the other end
// of the cable, are left out.
func (c *Capture) Packets() ([]Packet, error) {
	if _, err := c.Stop(); err != nil {
		return nil, err
	}
	return ReadPcap(c.file)
}

// ReadPcap returns the packets of a pcap file, without the lab's own markers.
func ReadPcap(path string) ([]Packet, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	defer f.Close()
	r, err := NewPcapReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read capture %s: %w", path, err)
	}
	var packets []Packet
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return packets, nil
		}
		if err != nil {
			return packets, fmt.Errorf("read capture %s: %w", path, err)
		}
		if p.EtherType != markerType {
			packets = append(packets, p)
		}
	}
}
