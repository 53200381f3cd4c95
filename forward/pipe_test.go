package forward_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/culvert-k8s/culvert/forward"
)

// Over pipes of the system a reset frees the own side; the other side cannot be told.
func TestPipeOverFiles(t *testing.T) {
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer inW.Close()
	defer outR.Close()
	c := forward.Pipe(inR, outW)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	if err := c.Reset(errOnPurpose); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, forward.ErrReset) || !errors.Is(err, errOnPurpose) {
		t.Errorf("blocked read after a reset: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, errOnPurpose) {
		t.Errorf("write after a reset: %v", err)
	}
	if _, err := outR.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("reader of the output: %v", err)
	}
}

// once ends, and would then start anew, as a terminal does.
type once struct{ ended, closed int }

func (o *once) Read(p []byte) (int, error) {
	if o.ended++; o.ended == 1 {
		return 0, io.EOF
	}
	return len(p), nil
}
func (o *once) Write(p []byte) (int, error) { return len(p), nil }
func (o *once) Close() error                { o.closed++; return nil }

func TestPipeClosesEachEndOnce(t *testing.T) {
	tests := []struct {
		name string
		end  func(c forward.Conn)
	}{
		{"close", func(c forward.Conn) { c.Close() }},
		{"reset", func(c forward.Conn) { c.Reset(nil) }},
		{"reset and close", func(c forward.Conn) { c.Reset(nil); c.Close(); c.Reset(nil) }},
		{"finish and reset", func(c forward.Conn) { c.CloseWrite(); c.Reset(nil); c.CloseWrite() }},
		{"finish both and close", func(c forward.Conn) { c.CloseWrite(); c.Read(nil); c.Close(); c.Close() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, w := new(once), new(once)
			tt.end(forward.Pipe(r, w))
			if r.closed != 1 || w.closed != 1 {
				t.Errorf("reader closed %d times, writer %d times", r.closed, w.closed)
			}
		})
	}
}

func TestPipeEndIsSticky(t *testing.T) {
	c := forward.Pipe(new(once), new(once))
	defer c.Close()
	for range 3 {
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("read at the end: %d, %v", n, err)
		}
	}
}
