package kubectl

import (
	"errors"
	"net"
	"sync"
	"testing"
)

// gathering is a connection above something that gathers, and that something.
type gathering struct {
	net.Conn
	steps  []string
	failed error // of Flush
}

func (g *gathering) NetConn() net.Conn { return g }

func (g *gathering) Hold() { g.steps = append(g.steps, "hold") }

func (g *gathering) Flush() error {
	g.steps = append(g.steps, "flush")
	return g.failed
}

func (g *gathering) Write(p []byte) (int, error) {
	g.steps = append(g.steps, "write")
	return len(p), nil
}

func TestLargeWritesAreGathered(t *testing.T) {
	for _, tt := range []struct {
		name   string
		size   int
		failed error
		want   []string
	}{
		{"one record", recordSize, nil, []string{"write"}},
		{"several", recordSize + 1, nil, []string{"hold", "write", "flush"}},
		{"broken", recordSize + 1, errors.New("broken"), []string{"hold", "write", "flush"}},
	} {
		g := &gathering{failed: tt.failed}
		o := newOutbound(g, spdyFraming{}, &sync.Pool{})
		if err := o.send(make([]byte, tt.size)); !errors.Is(err, tt.failed) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if len(g.steps) != len(tt.want) || g.steps[0] != tt.want[0] {
			t.Errorf("%s: %v, want %v", tt.name, g.steps, tt.want)
		}
	}
	if a, _ := net.Pipe(); gathererOf(a) != nil {
		t.Error("a pipe gathers nothing")
	}
}
