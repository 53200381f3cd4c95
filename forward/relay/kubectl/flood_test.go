package kubectl

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/moby/spdystream/spdy"

	"github.com/culvert-k8s/culvert/forward/forwardtest"
)

// flood is what a client sends again and again while it reads nothing.
type flood struct {
	name     string
	door     string
	first    []byte // once
	again    []byte // many frames; nil: first is the flood
	answered bool   // each of them
}

func floods() []flood {
	const many = 512
	masked := func(op byte, n int) []byte { return bytes.Repeat(clientFrame(wsFin|op, make([]byte, n)), many) }
	settings := append(appendControlHead(nil, typeSettings, 12), make([]byte, 12)...)
	window := append(appendControlHead(nil, typeWindowUpdate, 8), make([]byte, 8)...)
	data := http.Header{"streamtype": {"data"}, "port": {"80"}, "requestid": {"1"}}
	return []flood{
		{"pings", DoorSPDY, nil, bytes.Repeat(appendPing(nil, 1), many), true},
		{"streams", DoorSPDY, synFlood(40_000), nil, true},
		{"settings", DoorSPDY, nil, bytes.Repeat(settings, many), false},
		{"resets of nothing", DoorSPDY, nil, bytes.Repeat(appendRst(nil, 99, rstCancel), many), false},
		{"window updates", DoorSPDY, nil, bytes.Repeat(window, many), false},
		{"empty data", DoorSPDY, framed(syn(1, podHeaders), syn(3, data)), bytes.Repeat(appendData(nil, 3, 0, nil), many), false},
		{"data on the error stream", DoorSPDY, framed(syn(1, podHeaders), syn(3, data)), bytes.Repeat(appendData(nil, 1, 0, make([]byte, 100)), many), false},
		{"data after the end", DoorSPDY, framed(syn(1, podHeaders), syn(3, data), &spdy.DataFrame{StreamId: 3, Flags: spdy.DataFlagFin}),
			bytes.Repeat(appendData(nil, 3, flagFin, make([]byte, 100)), many), false},
		{"pings in a tunnel", DoorWebSocket, nil, bytes.Repeat(clientFrame(wsFin|opBinary, appendPing(nil, 1)), many), true},
		{"websocket pings in a tunnel", DoorWebSocket, nil, masked(opPing, 100), true},
		{"websocket pongs in a tunnel", DoorWebSocket, nil, masked(opPong, 100), false},
		{"empty messages in a tunnel", DoorWebSocket, nil, masked(opBinary, 0), false},
		{"a message without an end in a tunnel", DoorWebSocket, clientFrame(opBinary, nil), bytes.Repeat(clientFrame(opContinuation, nil), many), false},
		{"websocket pings", DoorV4, nil, masked(opPing, 100), true},
		{"websocket pongs", DoorV4, nil, masked(opPong, 0), false},
		{"empty messages", DoorV4, nil, masked(opBinary, 0), false},
		{"messages to no channel", DoorV4, nil, bytes.Repeat(clientFrame(wsFin|opBinary, bytes.Repeat([]byte{77}, 100)), many), false},
	}
}

// synFlood opens streams, of which the server takes a hundred and refuses the rest.
func synFlood(n int) []byte {
	var b bytes.Buffer
	f, err := spdy.NewFramer(&b, nil)
	if err != nil {
		panic(err)
	}
	for i := range n {
		h := http.Header{"streamtype": {"error"}, "port": {"80"}, "requestid": {strconv.Itoa(i)}}
		if err := f.WriteFrame(syn(spdy.StreamId(2*i+1), h)); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// floodBytes is far more than may be kept of a flood.
const floodBytes = 2 << 20

// A client that floods and never reads costs a bounded buffer, whatever it sends:
// who makes the server answer and does not take the answers is not read any more,
// and is given up in the end. Its neighbour is served meanwhile, and all is given
// back.
func TestFloodsThatNobodyReads(t *testing.T) {
	for _, f := range floods() {
		t.Run(f.name, func(t *testing.T) {
			var good *pod
			inBubble(t, Config{}, echoing(&good), func(t *testing.T, neighbour *rawClient, p *pod) {
				good = p
				greet := func(request int) {
					data, _, err := neighbour.connect(80, request)
					if err == nil {
						err = exchange(data, "hello")
					}
					if err != nil {
						t.Errorf("the neighbour: %v", err)
					}
				}
				greet(1)
				client, ended := f.serve()
				before := heap()
				sent := make(chan int, 1)
				go func() { sent <- f.run(client) }()
				greet(2)
				if f.answered {
					synctest.Wait() // the flood has come to a stop
				} else if n := <-sent; n < floodBytes {
					t.Errorf("%d bytes were taken, and nothing had to be answered", n)
				} else {
					sent <- n
				}
				greet(3)
				if grown := heap() - before; grown > 1<<20 {
					t.Errorf("the flood holds %d bytes", grown)
				}
				if f.answered {
					if err := <-ended; !errors.Is(err, errBlocked) {
						t.Errorf("the flood ended with %v", err)
					}
				} else {
					_ = client.Close()
					<-ended
				}
				_ = client.Close()
				if n := <-sent; f.answered && n > 4*maxControl {
					t.Errorf("%d bytes were taken, and no answer was read", n)
				}
			})
		})
	}
}

// serve begins a session of the flood's door whose pod takes all and says nothing.
func (f *flood) serve() (client net.Conn, ended <-chan error) {
	client, server := net.Pipe()
	h, done := New(Config{MaxConnections: 100}), make(chan error, 1)
	var p *pod
	p = newPod(func(context.Context, uint16) (Connection, error) {
		a, b := forwardtest.Pipe()
		go func() {
			for buf := make([]byte, 4<<10); ; {
				if _, err := b.Read(buf); err != nil {
					_ = b.Reset(err)
					return
				}
			}
		}()
		return &link{pod: p, conn: a}, nil
	})
	go func() {
		switch f.door {
		case DoorSPDY:
			done <- h.serveSPDY(context.Background(), server, server, p)
		case DoorWebSocket:
			done <- h.serveTunnel(context.Background(), server, server, p)
		case DoorV4:
			done <- h.serveChannels(context.Background(), server, server, p, []uint16{80}, false)
		}
	}()
	return client, done
}

// run sends until it was enough or the server hangs up, and returns the bytes that
// were taken.
func (f *flood) run(client net.Conn) int {
	if n, err := client.Write(f.first); err != nil || f.again == nil {
		return n
	}
	for sent := 0; ; {
		n, err := client.Write(f.again)
		sent += n
		if err != nil || sent >= floodBytes {
			return sent
		}
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A header block of 16 KiB that becomes megabytes is refused before they are there.
func TestHeaderBombTakesNoRoom(t *testing.T) {
	bombs := map[string][]byte{
		"one long value":    framed(syn(1, manyHeaders(1, 8<<20))),
		"many values":       framed(syn(1, manyHeaders(16, 512<<10))),
		"many short values": framed(syn(1, manyHeaders(200, 1))),
	}
	for name, bomb := range bombs {
		b, err := newBlocks()
		if err != nil {
			t.Fatal(err)
		}
		if len(bomb) > spdyHead+maxControlFrame {
			bomb = bomb[:spdyHead+maxControlFrame] // the rest would not be read
			bomb[5], bomb[6], bomb[7] = 0, maxControlFrame>>8, 0
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err = b.synStream(bomb)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; err == nil || n > 1<<20 {
			t.Errorf("%s: %d bytes of wire allocate %d, %v", name, len(bomb), n, err)
		}
	}
}
