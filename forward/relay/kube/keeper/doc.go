// Package keeper keeps the certificates of a relay in a cluster: an authority and
// a serving certificate, in one Secret that all replicas of the relay share, and
// the authority once more in ConfigMaps, for those who dial the relay.
//
// The Secret and the ConfigMaps exist before, empty: a relay may read and change
// these objects and can create none. Whoever writes first wins, by the version of
// the object; the others read what he wrote. Every replica looks again from time
// to time, so that a new certificate is served by all without a restart, and any
// of them replaces a certificate that is due.
//
// The Secret holds
//
//	ca.key   the key that signs
//	ca.crt   the authorities to trust: the one of ca.key, and those before it
//	tls.crt  the serving certificate and its authority
//	tls.key  its key
//
// # Rotation
//
// To get another authority, remove ca.key from the Secret and nothing else. The
// next relay that looks makes a new authority and puts it into ca.crt and the
// ConfigMaps beside the old one. For [Config.Overlap] the old serving certificate
// stays in use, while everybody learns of the new authority; then one of the new
// authority takes its place. Remove tls.key too in order not to wait. The old
// authority is trusted until it ends or is taken out of ca.crt by hand.
//
// With the whole content of the Secret removed, everything is made anew at once,
// and nobody is let in until he has the new authority.
//
// What cannot be understood is never replaced while it holds a key of an
// authority: the keeper says what is wrong and serves what it has.
package keeper
