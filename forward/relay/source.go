package relay

import (
	"context"
	"net/netip"
)

// Source is who is taken for one stranger: an address of IPv4, or the /64 of IPv6
// that a household or a host has all of. The zero value is one whose address is not
// known.
type Source struct{ prefix netip.Prefix }

// ParseSource returns the source of an address as HOST:PORT.
func ParseSource(addr string) Source {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return Source{}
	}
	ip, bits := at.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return Source{}
	}
	return Source{prefix}
}

type sourceKey struct{}

// WithSource returns a context that knows where a caller comes from. The relay gives
// such a one to its Authenticator.
func WithSource(ctx context.Context, s Source) context.Context {
	return context.WithValue(ctx, sourceKey{}, s)
}

// SourceOf returns where the caller of a context comes from.
func SourceOf(ctx context.Context) Source {
	s, _ := ctx.Value(sourceKey{}).(Source)
	return s
}
