package identity

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/culvert-k8s/culvert/proto/stream"
)

const (
	minToken      = 16
	maxToken      = stream.MaxToken // what a Hello carries: signed tokens with many claims are long
	maxTokens     = 16
	maxTokenBytes = 64 << 10
)

// LoadToken reads the first token of a file, as an agent or a client presents
// it. Errors never quote the contents.
func LoadToken(file string) (string, error) {
	b, err := readFile(file, maxTokenBytes, nil)
	if err != nil {
		return "", err
	}
	tokens, err := ParseTokens(b)
	if err != nil {
		return "", fmt.Errorf("load token from %s: %w", file, err)
	}
	return tokens[0], nil
}

// ParseTokens reads a token file: one token a line, each 16 to 16384 printable
// ASCII characters without space, 1 to 16 of them, so that an old and a new one
// can be good at the same time. Empty lines and lines that begin with # do not
// count. Errors never quote the contents.
func ParseTokens(b []byte) ([]string, error) {
	if len(b) > maxTokenBytes {
		return nil, fmt.Errorf("parse tokens: %d bytes, at most %d are allowed", len(b), maxTokenBytes)
	}
	var tokens []string
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) < minToken || len(line) > maxToken {
			return nil, fmt.Errorf("parse tokens: token of %d characters, want %d to %d", len(line), minToken, maxToken)
		}
		for _, c := range line {
			if c <= ' ' || c > '~' {
				return nil, errors.New("parse tokens: token holds a character that is not printable ASCII")
			}
		}
		if len(tokens) == maxTokens {
			return nil, fmt.Errorf("parse tokens: more than %d tokens", maxTokens)
		}
		tokens = append(tokens, string(line))
	}
	if len(tokens) == 0 {
		return nil, errors.New("parse tokens: no token")
	}
	return tokens, nil
}
