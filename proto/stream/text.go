package stream

import (
	"strings"
	"unicode/utf8"
)

// unsafeRune reports whether r could move a cursor, break a log line or turn the
// direction of the text around it. The list is fixed by number, not by Unicode
// category, so that every implementation and every Unicode version agree.
func unsafeRune(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r <= 0x9f: // C0, DEL, C1
		return true
	case r == 0x2028, r == 0x2029: // line and paragraph separator
		return true
	case r == 0x061c, r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069: // direction
		return true
	}
	return false
}

// checkText refuses a field that is too long, not UTF-8, or unsafe to print.
// Fields are names that others compare and log, so nothing is repaired.
func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return malformed("%s of %d bytes, at most %d are allowed", field, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return malformed("%s is not valid UTF-8", field)
	}
	if strings.IndexFunc(s, unsafeRune) >= 0 {
		return malformed("%s holds a control character", field)
	}
	return nil
}

// clean makes text for people safe to print and to send: what is unsafe or not
// UTF-8 becomes a question mark, line breaks and tabs become a space, and it is
// cut to MaxText bytes between two characters. Unlike a field, a text is repaired
// and not refused: a reason that is hard to read is better than none.
func clean(s string) string {
	if len(s) <= MaxText && utf8.ValidString(s) && strings.IndexFunc(s, unsafeRune) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		out := s[i : i+n]
		switch {
		case r == '\n', r == '\r', r == '\t':
			out = " "
		case r == utf8.RuneError && n == 1, unsafeRune(r):
			out = "?"
		}
		if b.Len()+len(out) > MaxText {
			return b.String()
		}
		b.WriteString(out)
		i += n
	}
	return b.String()
}
