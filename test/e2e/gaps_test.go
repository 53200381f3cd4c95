//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// gaps are what no test of Kubernetes looks at.
func gaps() []behaviour {
	return []behaviour{
		{"an answer that comes 3 s after the client has finished sending arrives", lateAnswer, stock, "the stock path gives an answer one second"},
		{"a refused port ends that connection only", refused, stock, "kubectl ends at the first message on an error stream"},
		{"a connection that the pod resets ends alone", podResets, stock, "the same"},
		{"a client that stops reading does not stop the others", stalledReader, notNative, "SPDY has no flow control: kubectl itself reads nothing more"},
		{"a pod that does not read what it is sent holds the others up for a minute at most", stalledPod, stock, "SPDY has no flow control in this direction either"},
		{"idle for 45 s, then data", idle, everywhere, ""},
		{"a pod that listens on ::1 only", sixOnly, everywhere, ""},
		{"100 connections at once", crowd, everywhere, ""},
		{"64 MiB down, every byte right", download, everywhere, ""},
		{"64 MiB up, every byte right", upload, everywhere, ""},
	}
}

func lateAnswer(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portLate)
	if err != nil {
		return err
	}
	defer f.Kill()
	answer, err := f.ask(ctx, 0, "question", patience)
	if err != nil {
		return err
	}
	if answer != "late answer to 8 bytes\n" {
		return fmt.Errorf("the answer is %q", answer)
	}
	return nil
}

func refused(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portNobody, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	return f.survives(ctx, func(conn *net.TCPConn) error { return ends(conn, prompt) })
}

func podResets(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portReset, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	return f.survives(ctx, func(conn *net.TCPConn) error {
		_, _ = io.WriteString(conn, "12345678")
		return ends(conn, prompt)
	})
}

// survives claims that connections to the first port end as they should, and that
// one to the second, open all the time, and new ones stay well.
func (f *forwarding) survives(ctx context.Context, disturb func(conn *net.TCPConn) error) error {
	witness, err := f.dial(ctx, 1)
	if err != nil {
		return err
	}
	defer witness.Close()
	if err := exchange(witness, "before", patience); err != nil {
		return err
	}
	for range 3 {
		conn, err := f.dial(ctx, 0)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // refused so fast that connect(2) says it
		}
		if err != nil {
			return err
		}
		err = disturb(conn)
		conn.Close()
		if err != nil {
			return err
		}
	}
	if err := exchange(witness, "after", prompt); err != nil {
		return fmt.Errorf("a connection beside it: %w", err)
	}
	return f.serves(ctx, 1)
}

func stalledReader(ctx context.Context, s *scene) error {
	return s.connected(ctx, s.pod, []int{portSource, portEcho}, func(f *forwarding, conn *net.TCPConn) error {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return err
		}
		time.Sleep(2 * time.Second) // until everything on the way is full
		return f.serves(ctx, 1)
	})
}

func stalledPod(ctx context.Context, s *scene) error {
	return s.connected(ctx, s.pod, []int{portStall, portEcho}, func(f *forwarding, conn *net.TCPConn) error {
		_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		witness, err := f.dial(ctx, 1)
		if err != nil {
			return err
		}
		defer witness.Close()
		if err := exchange(witness, "before", patience); err != nil {
			return err
		}
		_, _ = conn.Write(make([]byte, 16<<20)) // or as much as goes in
		if err := exchange(witness, "after", time.Minute); err != nil {
			return err
		}
		for began := time.Now(); ; {
			if err := f.serves(ctx, 1); err == nil || time.Since(began) > time.Minute {
				return err
			}
		}
	})
}

func idle(ctx context.Context, s *scene) error {
	return s.connected(ctx, s.pod, []int{portEcho}, func(f *forwarding, conn *net.TCPConn) error {
		if err := exchange(conn, "before", patience); err != nil {
			return err
		}
		select {
		case <-time.After(45 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := exchange(conn, "after", prompt); err != nil {
			return err
		}
		return f.serves(ctx, 0)
	})
}

func sixOnly(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portSix)
	if err != nil {
		return err
	}
	defer f.Kill()
	return f.serves(ctx, 0)
}

func crowd(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portEcho)
	if err != nil {
		return err
	}
	defer f.Kill()
	var all errgroup.Group
	for i := range 100 {
		all.Go(func() error {
			conn, err := f.dial(ctx, 0)
			if err != nil {
				return err
			}
			defer conn.Close()
			for j := range 10 {
				if err := exchange(conn, fmt.Sprintf("%d of %d", j, i), patience); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

func download(ctx context.Context, s *scene) error {
	return s.connected(ctx, s.pod, []int{portSource}, func(f *forwarding, conn *net.TCPConn) error {
		_ = conn.SetDeadline(time.Now().Add(2 * patience))
		got, want := sha256.New(), sha256.New()
		n, err := io.Copy(got, conn)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
		if err := pattern(want, sourceSize); err != nil {
			return err
		}
		if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			return fmt.Errorf("%d bytes of %d, not the right ones", n, sourceSize)
		}
		return nil
	})
}

// upload goes over HTTP, whose bodies have a length: the stock path does not tell
// a pod that the client has finished.
func upload(ctx context.Context, s *scene) error {
	f, err := s.forward(ctx, s.pod, portHTTP)
	if err != nil {
		return err
	}
	defer f.Kill()
	var content bytes.Buffer
	if err := pattern(&content, sourceSize); err != nil {
		return err
	}
	want := fmt.Sprintf("%d %x\n", sourceSize, sha256.Sum256(content.Bytes()))
	client := &http.Client{Timeout: 2 * patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return f.dial(ctx, 0) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://pod/sha256", &content)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if string(answer) != want {
		return fmt.Errorf("answer %q, want %q", answer, want)
	}
	return nil
}

// pattern writes what podserver's source sends: every eight bytes are their own
// offset.
func pattern(w io.Writer, size int) error {
	var group [8]byte
	buffered := bufio.NewWriterSize(w, 64<<10)
	for offset := 0; offset < size; offset += len(group) {
		binary.BigEndian.PutUint64(group[:], uint64(offset))
		if _, err := buffered.Write(group[:]); err != nil {
			return err
		}
	}
	return buffered.Flush()
}
