//go:build linux

package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Clock changes what one running program of Go takes for the time. Programs ask the
// kernel through the vDSO, a piece of code in their own memory that Go keeps the
// address of: this puts another piece before it that adds to the answer. Nothing
// else on the machine sees another time.
type Clock struct {
	mem  string // of the process
	data int64  // where the two numbers are that are added
}

// ErrNoClock reports a program whose clock cannot be taken hold of.
var ErrNoClock = errors.New("this program's clock cannot be changed")

// mapping is a line of /proc/PID/maps.
type mapping struct {
	from, to int64
	mode     string
	path     string
}

// Clock takes hold of the clock of the process. It changes nothing yet, and may be
// called again. Only on amd64, where it is known what to put there.
func (p *Process) Clock() (*Clock, error) {
	c := &Clock{mem: fmt.Sprintf("/proc/%d/mem", p.Pid())}
	if err := c.take(p.Pid()); err != nil {
		return nil, fmt.Errorf("take the clock of %s: %w", p.label, err)
	}
	return c, nil
}

func (c *Clock) take(pid int) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w on %s", ErrNoClock, runtime.GOARCH)
	}
	maps, err := readMaps(pid)
	if err != nil {
		return err
	}
	vdso := find(maps, func(m mapping) bool { return m.path == "[vdso]" })
	if len(vdso) != 1 {
		return fmt.Errorf("%w: it has no vDSO", ErrNoClock)
	}
	image, err := c.read(vdso[0].from, vdso[0].to)
	if err != nil {
		return err
	}
	asked, err := clockGettime(image, vdso[0].from)
	if err != nil {
		return err
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return err
	}
	shim := shimFor(asked)
	room := int64(len(image)) - int64(len(shim))
	if bytes.Equal(image[room:][:shimCode], shim[:shimCode]) {
		c.data = vdso[0].from + room + shimCode // it was taken before
		return nil
	}
	if len(bytes.Trim(image[room:], "\x00")) > 0 {
		return fmt.Errorf("%w: its vDSO has no room", ErrNoClock)
	}
	at, err := c.word(dataOf(maps, exe), asked)
	if err != nil {
		return err
	}
	c.data = vdso[0].from + room + shimCode
	if err := c.write(vdso[0].from+room, shim); err != nil {
		return err
	}
	return c.write(at, binary.LittleEndian.AppendUint64(nil, uint64(vdso[0].from+room)))
}

// Set adds so much to the wall clock and to the monotonic clock, in whole seconds,
// in the place of what was added before. The monotonic clock must not go back.
func (c *Clock) Set(wall, monotonic time.Duration) error {
	b := binary.LittleEndian.AppendUint64(nil, uint64(int64(wall/time.Second)))
	b = binary.LittleEndian.AppendUint64(b, uint64(int64(monotonic/time.Second)))
	if err := c.write(c.data, b); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

// SetWall is Set for the wall clock alone: the monotonic clock stays where it is.
func (c *Clock) SetWall(by time.Duration) error {
	if err := c.write(c.data, binary.LittleEndian.AppendUint64(nil, uint64(int64(by/time.Second)))); err != nil {
		return fmt.Errorf("set wall clock: %w", err)
	}
	return nil
}

// shimCode is how long the code is before its two numbers.
const shimCode = 0x38

// shimFor is clock_gettime(clock, ts) that asks the one at that address and adds to
// the seconds of clock 0, the wall clock, and of clock 1, the monotonic one.
func shimFor(asked int64) []byte {
	b := []byte{
		0x57,                   // push rdi
		0x56,                   // push rsi
		0x48, 0x83, 0xec, 0x08, // sub rsp, 8: the stack stays aligned
		0x48, 0xb8, // mov rax, asked
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(asked))
	b = append(b,
		0xff, 0xd0, // call rax
		0x48, 0x83, 0xc4, 0x08, // add rsp, 8
		0x5e,                            // pop rsi
		0x5f,                            // pop rdi
		0x48, 0x8d, 0x0d, 0x19, 0, 0, 0, // lea rcx, [the numbers]
		0x85, 0xff, // test edi, edi
		0x74, 0x0b, // je wall
		0x83, 0xff, 0x01, // cmp edi, 1
		0x75, 0x0c, // jne out
		0x48, 0x8b, 0x49, 0x08, // mov rcx, [rcx+8]
		0xeb, 0x03, // jmp add
		0x48, 0x8b, 0x09, // wall: mov rcx, [rcx]
		0x48, 0x01, 0x0e, // add: add [rsi], rcx
		0xc3, // out: ret
	)
	return append(b, make([]byte, shimCode+16-len(b))...)
}

// clockGettime returns where the function is in a vDSO that begins at base.
func clockGettime(image []byte, base int64) (int64, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			return base + int64(s.Value), nil
		}
	}
	return 0, fmt.Errorf("%w: its vDSO tells no time", ErrNoClock)
}

// word finds the one place that holds the number.
func (c *Clock) word(among []mapping, number int64) (int64, error) {
	var found []int64
	want := binary.LittleEndian.AppendUint64(nil, uint64(number))
	for _, m := range among {
		b, err := c.read(m.from, m.to)
		if err != nil {
			return 0, err
		}
		for i := 0; i+8 <= len(b); i += 8 {
			if bytes.Equal(b[i:i+8], want) {
				found = append(found, m.from+int64(i))
			}
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%w: it keeps the address of the vDSO in %d places", ErrNoClock, len(found))
	}
	return found[0], nil
}

func (c *Clock) read(from, to int64) ([]byte, error) {
	f, err := os.Open(c.mem)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, to-from)
	_, err = f.ReadAt(b, from)
	return b, err
}

func (c *Clock) write(at int64, b []byte) error {
	f, err := os.OpenFile(c.mem, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close())
}

func find(maps []mapping, which func(mapping) bool) []mapping {
	var found []mapping
	for _, m := range maps {
		if which(m) {
			found = append(found, m)
		}
	}
	return found
}

// dataOf returns the variables of a program: what it has written in its file, and
// right behind that what begins as zero.
func dataOf(maps []mapping, exe string) []mapping {
	var end int64
	return find(maps, func(m mapping) bool {
		its := m.mode[1] == 'w' && (m.path == exe || m.path == "" && m.from == end)
		if its || m.path == exe {
			end = m.to
		}
		return its
	})
}

func readMaps(pid int) ([]mapping, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	var maps []mapping
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		fields = append(fields, "") // an anonymous one has no path
		if len(fields) < 6 {
			continue
		}
		low, high, _ := strings.Cut(fields[0], "-")
		from, err1 := strconv.ParseInt(low, 16, 64)
		to, err2 := strconv.ParseInt(high, 16, 64)
		if err1 != nil || err2 != nil {
			continue // vsyscall, beyond what a process may have
		}
		maps = append(maps, mapping{from, to, fields[1], fields[5]})
	}
	return maps, nil
}
