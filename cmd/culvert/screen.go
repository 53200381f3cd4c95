package main

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// screen is a terminal that is drawn over, or else a row of pages.
type screen struct {
	out   io.Writer
	fd    int // -1: no terminal
	drawn bool
}

// screenOn returns a screen on what may be a terminal, which is used as one if that
// is wanted.
func screenOn(out io.Writer, wanted bool) *screen {
	s := &screen{out: out, fd: -1}
	if f, ok := out.(*os.File); ok && wanted && term.IsTerminal(int(f.Fd())) {
		s.fd = int(f.Fd())
	}
	return s
}

// room returns how many rows of a table fit; 0: as many as there are.
func (s *screen) room() int {
	if s.fd < 0 {
		return 0
	}
	_, height, err := term.GetSize(s.fd)
	if err != nil {
		return 0
	}
	return max(height-3, 1) // summary, head, and the line of the cursor
}

func (s *screen) draw(text string) error {
	begin, end := "", ""
	switch {
	case s.fd >= 0:
		begin, end = "\x1b[H", "\x1b[J" // from the top left; clear what is below
		if !s.drawn {
			begin = "\x1b[?1049h\x1b[?25l\x1b[H" // another page, no cursor
		}
		text = s.fit(text)
	case s.drawn:
		begin = "\n"
	}
	s.drawn = true
	_, err := s.out.Write([]byte(begin + text + end))
	return err
}

// fit cuts lines to the width of the terminal and clears what was behind them.
func (s *screen) fit(text string) string {
	width, _, err := term.GetSize(s.fd)
	if err != nil {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		letters := []rune(strings.TrimSuffix(line, "\n"))
		b.WriteString(string(letters[:min(len(letters), width)]) + "\x1b[K\n")
	}
	return b.String()
}

// note shows a line in the place of a table.
func (s *screen) note(text string) error { return s.draw(line("warning: %s", text)) }

// leave gives the terminal back.
func (s *screen) leave() {
	if s.fd >= 0 && s.drawn {
		_, _ = s.out.Write([]byte("\x1b[?25h\x1b[?1049l"))
	}
}
