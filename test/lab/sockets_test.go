//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

const socketTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4026 1 0000000000000000 100 0 0 10 0
   1: 0200000A:C350 0100000A:0050 01 0000000A:00000100 02:00000000 00000000     0        0 77 2 0000000000000000 20 4 30 10 -1
`

const socketTable6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000100007F:0051 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 100 0 0 10 0
`

func TestParseSockets(t *testing.T) {
	at := netip.MustParseAddrPort
	for table, want := range map[string][]Socket{
		socketTable: {
			{Local: at("127.0.0.1:8080"), Remote: at("0.0.0.0:0"), State: Listening, Inode: 4026},
			{Local: at("10.0.0.2:50000"), Remote: at("10.0.0.1:80"), State: Established, SendQueue: 10, ReceiveQueue: 256, Inode: 77},
		},
		socketTable6: {
			{Local: at("[::1]:80"), Remote: at("[::]:0"), State: Listening, Inode: 1},
			{Local: at("127.0.0.1:80"), Remote: at("127.0.0.1:81"), State: TimeWait},
		},
	} {
		got, err := parseSockets(strings.NewReader(table))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, %v\nwant %v", got, err, want)
		}
	}
	for _, broken := range []string{
		"0100007F:1F90",
		"0: 0100007F 00000000:0000 0A 0:0 0 0 0 0 1",
		"0: 01007F:0000 00000000:0000 0A 0:0 0 0 0 0 1",
		"0: 0100007F:10000 00000000:0000 0A 0:0 0 0 0 0 1",
		"0: 0100007F:0000 00000000:0000 XX 0:0 0 0 0 0 1",
		"0: 0100007F:0000 00000000:0000 0A 0 0 0 0 0 1",
		"0: 0100007F:0000 00000000:0000 0A 0:x 0 0 0 0 1",
		"0: 0100007F:0000 00000000:0000 0A 0:0 0 0 0 0 -1",
	} {
		if got, err := parseSockets(strings.NewReader("titles\n" + broken + "\n")); !errors.Is(err, ErrSocketTable) {
			t.Errorf("%q gave %v, %v", broken, got, err)
		}
	}
}

func FuzzSockets(f *testing.F) {
	f.Add(socketTable)
	f.Add(socketTable6)
	f.Fuzz(func(t *testing.T, table string) {
		sockets, err := parseSockets(strings.NewReader(table))
		if err != nil {
			return
		}
		for _, s := range sockets {
			if !s.Local.IsValid() || !s.Remote.IsValid() {
				t.Errorf("socket without an address: %+v", s)
			}
		}
	})
}

func TestSocketsOfNamespace(t *testing.T) {
	n := ForTest(t, "h")
	h := n.Host("h")
	pod, err := h.Pod(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if all, err := pod.Sockets(); err != nil || len(all) != 0 {
		t.Fatalf("a new pod has %v, %v", all, err)
	}
	startEcho(t, pod.Namespace, "127.0.0.1:80")
	conn, err := pod.Dial(t.Context(), "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	all, err := pod.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	if ls := Listeners(all); len(ls) != 1 || ls[0].Local != netip.MustParseAddrPort("127.0.0.1:80") {
		t.Errorf("listeners %v", ls)
	}
	mine := SelectSockets(all, func(s *Socket) bool {
		return s.State == Established && s.Local.String() == conn.LocalAddr().String()
	})
	if len(mine) != 1 || mine[0].Remote.Port() != 80 {
		t.Errorf("all %v", all)
	}
	if outside, err := h.Sockets(); err != nil || len(outside) != 0 {
		t.Errorf("the host has %v, %v", outside, err)
	}
}

func TestSocketsOfProcess(t *testing.T) {
	h := ForTest(t, "h").Host("h")
	ln, err := h.Listen("127.0.0.1:81")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	// bash alone can open a TCP connection without any other program.
	p, err := h.Start(t.Context(), "bash", "-c", "exec 9<>/dev/tcp/127.0.0.1/81; echo up; read x <&9")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitLine(regexp.MustCompile("up"), longEnough); err != nil {
		t.Fatal(err)
	}
	all, err := h.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	held, err := p.Sockets(all)
	if err != nil || len(held) != 1 || held[0].Remote.Port() != 81 || len(Listeners(held)) != 0 {
		t.Errorf("process holds %v of %v, %v", held, all, err)
	}
}

// TestSocketsOfPodServer is about a program in Go: its listeners may speak
// Multipath TCP, which has sockets above those in the table.
func TestSocketsOfPodServer(t *testing.T) {
	n := ForTest(t, "h")
	program, err := BuildPodServer(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pod, err := n.Host("h").Pod(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if err := pod.Serve(program, "-echo", "7000"); err != nil {
		t.Fatal(err)
	}
	talk(t, pod.Namespace, "127.0.0.1:7000", "hello")
	all, err := pod.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	server := n.processes(pod.Namespace)[0]
	held, err := server.Sockets(Listeners(all))
	if err != nil || len(held) != 1 || held[0].Local != netip.MustParseAddrPort("127.0.0.1:7000") {
		t.Errorf("podserver holds %v of %v, %v", held, all, err)
	}
}
