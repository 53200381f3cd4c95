package stream

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
)

const helloHead = 4 // version u8, credential u8, length of the token u16

// CredentialKind says what the dialling side proves itself with.
type CredentialKind uint8

// Kinds of credentials. Numbers are never reused.
const (
	CredentialTLS   CredentialKind = 0 // the certificate it showed in the TLS handshake; no token
	CredentialToken CredentialKind = 1 // a bearer token
	CredentialJoin  CredentialKind = 2 // a join token of an agent that has no certificate yet
)

// String returns the name of the kind for logs and metrics.
func (k CredentialKind) String() string {
	switch k {
	case CredentialTLS:
		return "tls"
	case CredentialToken:
		return "token"
	case CredentialJoin:
		return "join"
	}
	return "credential-" + strconv.Itoa(int(k))
}

// Hello is the first message of a session, sent by the side that dialled, right
// after the TLS handshake and before the multiplexer. Its answer is a Reply.
type Hello struct {
	Version    uint8 // written: highest version spoken, 0 = Version. Read: the version to use, never above Version
	Credential CredentialKind
	Token      string `json:"-"` // 1 to MaxToken printable ASCII bytes without space; empty for CredentialTLS
}

// String, GoString and the json tag keep the token out of logs.
func (h Hello) String() string {
	return fmt.Sprintf("hello{version %d, %s, token of %d bytes}", h.Version, h.Credential, len(h.Token))
}

// GoString is String, so that %#v keeps the token too.
func (h Hello) GoString() string { return h.String() }

// AppendHello appends the wire form of h to b. It returns b unchanged and an
// *Error in the chain if h breaks a limit; no error ever quotes the token.
func AppendHello(b []byte, h *Hello) ([]byte, error) {
	if err := h.check(); err != nil {
		return b, during("encode hello", err)
	}
	version := h.Version
	if version == 0 {
		version = Version
	}
	b = append(b, version, byte(h.Credential))
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.Token)))
	return append(b, h.Token...), nil
}

// WriteHello writes h to w with one Write.
func WriteHello(w io.Writer, h *Hello) error {
	b, err := AppendHello(make([]byte, 0, helloHead+len(h.Token)), h)
	if err != nil {
		return err
	}
	return during("write hello", writeOnce(w, b))
}

// ReadHello reads one Hello from r, which nobody has authenticated yet: while it
// waits it holds no more than the length announced, at most MaxToken bytes. An *Error with Unsupported or Malformed is in
// the chain if the peer sent something else. The deadline is the caller's.
func ReadHello(r io.Reader) (*Hello, error) {
	h, err := readHello(r)
	if err != nil {
		return nil, during("read hello", err)
	}
	return h, nil
}

func readHello(r io.Reader) (*Hello, error) {
	var head [helloHead]byte
	if err := readHead(r, head[:]); err != nil {
		return nil, err
	}
	version, err := speaks(head[0])
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	if n > MaxToken {
		return nil, malformed("token of %d bytes, at most %d are allowed", n, MaxToken)
	}
	token, err := readRest(r, n)
	if err != nil {
		return nil, err
	}
	h := &Hello{Version: version, Credential: CredentialKind(head[1]), Token: string(token)}
	return h, h.check()
}

// check is the form both directions insist on.
func (h *Hello) check() error {
	switch h.Credential {
	case CredentialTLS:
		if h.Token != "" {
			return malformed("a token beside the tls credential")
		}
		return nil
	case CredentialToken, CredentialJoin:
	default:
		return unsupported("%s is not known here", h.Credential)
	}
	if h.Token == "" || len(h.Token) > MaxToken {
		return malformed("token of %d bytes, 1 to %d are allowed", len(h.Token), MaxToken)
	}
	for i := range len(h.Token) {
		if c := h.Token[i]; c <= ' ' || c >= 0x7f {
			return malformed("token holds a byte at offset %d that is not printable ASCII", i)
		}
	}
	return nil
}
