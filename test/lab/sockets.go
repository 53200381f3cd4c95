//go:build linux

package lab

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SocketState is the state of a TCP socket, numbered as the kernel does.
type SocketState uint8

// The states of TCP.
const (
	Established SocketState = iota + 1
	SynSent
	SynReceived
	FinWait1
	FinWait2
	TimeWait
	Closed
	CloseWait
	LastAck
	Listening
	Closing
	NewSynReceived
)

// String returns the state as ss(8) writes it.
func (s SocketState) String() string {
	names := [...]string{"", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT",
		"UNCONN", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECV"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// Socket is one line of a namespace's TCP table.
type Socket struct {
	// Local and Remote are its ends; Remote is the zero address while listening.
	Local, Remote netip.AddrPort
	// State is the state of the connection.
	State SocketState
	// SendQueue and ReceiveQueue are bytes not yet acknowledged and not yet read.
	SendQueue, ReceiveQueue uint32
	// Inode identifies the socket among the open files of its process; it is 0
	// when no process holds the socket any more.
	Inode uint64
}

// ErrSocketTable reports a TCP table that is not in the kernel's format.
var ErrSocketTable = errors.New("malformed socket table")

// Sockets returns all TCP sockets of the namespace, of both address families,
// whoever holds them.
func (s *Namespace) Sockets() ([]Socket, error) {
	var sockets []Socket
	err := s.Do(func() error {
		for _, table := range []string{"tcp", "tcp6"} {
			f, err := os.Open(filepath.Join("/proc/thread-self/net", table))
			if errors.Is(err, fs.ErrNotExist) && table == "tcp6" {
				continue // a kernel without IPv6
			}
			if err != nil {
				return err
			}
			part, err := parseSockets(f)
			f.Close()
			if err != nil {
				return err
			}
			sockets = append(sockets, part...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sockets of %s: %w", s.label, err)
	}
	return sockets, nil
}

// Listeners returns the sockets that listen.
func Listeners(sockets []Socket) []Socket {
	return SelectSockets(sockets, func(s *Socket) bool { return s.State == Listening })
}

// SelectSockets returns the sockets for which keep is true.
func SelectSockets(sockets []Socket, keep func(*Socket) bool) []Socket {
	var kept []Socket
	for i := range sockets {
		if keep(&sockets[i]) {
			kept = append(kept, sockets[i])
		}
	}
	return kept
}

// Sockets returns those of the given sockets that the process holds open.
func (p *Process) Sockets(among []Socket) ([]Socket, error) {
	dir := fmt.Sprintf("/proc/%d/fd", p.Pid())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read open files of %s: %w", p.label, err)
	}
	held := map[string]bool{}
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			held[target] = true // a file closed meanwhile is no error
		}
	}
	return SelectSockets(among, func(s *Socket) bool {
		return held[fmt.Sprintf("socket:[%d]", s.Inode)]
	}), nil
}

// parseSockets reads a table in the format of /proc/net/tcp or tcp6.
func parseSockets(r io.Reader) ([]Socket, error) {
	var sockets []Socket
	lines := bufio.NewScanner(r)
	for first := true; lines.Scan(); first = false {
		if first {
			continue // column titles
		}
		s, err := parseSocket(lines.Text())
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, s)
	}
	return sockets, lines.Err()
}

func parseSocket(line string) (Socket, error) {
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return Socket{}, fmt.Errorf("%w: line %q", ErrSocketTable, line)
	}
	var s Socket
	var errs [5]error
	s.Local, errs[0] = parseSocketAddr(fields[1])
	s.Remote, errs[1] = parseSocketAddr(fields[2])
	state, err := strconv.ParseUint(fields[3], 16, 8)
	s.State, errs[2] = SocketState(state), err
	send, receive, ok := strings.Cut(fields[4], ":")
	if !ok {
		errs[3] = ErrSocketTable
	}
	queued, err := strconv.ParseUint(send, 16, 32)
	if err == nil {
		s.SendQueue = uint32(queued)
		queued, err = strconv.ParseUint(receive, 16, 32)
		s.ReceiveQueue = uint32(queued)
	}
	errs[4] = err
	inode, err := strconv.ParseUint(fields[9], 10, 64)
	s.Inode = inode
	if err := errors.Join(append(errs[:], err)...); err != nil {
		return Socket{}, fmt.Errorf("%w: line %q: %w", ErrSocketTable, line, err)
	}
	return s, nil
}

// parseSocketAddr reads an address as the kernel prints it: in 32-bit words of
// the machine's byte order, then the port as a number.
func parseSocketAddr(text string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || !ok || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%w: address %q", ErrSocketTable, text)
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: port %q", ErrSocketTable, text)
	}
	for at := 0; at < len(raw); at += 4 {
		word := binary.BigEndian.Uint32(raw[at:])
		binary.NativeEndian.PutUint32(raw[at:], word)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}
