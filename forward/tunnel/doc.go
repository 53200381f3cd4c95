// Package tunnel multiplexes streams over one connection: hashicorp/yamux over
// TLS 1.3, with the faults of both cured in one place.
//
// A [Carrier] is the connection: TLS with the records of one flush gathered
// into one write beneath it, and frames of all streams batched above it. A
// [Session] owns a carrier and hands out [Stream]s, which are net.Conns with
// CloseWrite and Reset. A [Conn] is a stream that carries the frames of
// proto/stream, and so knows a finished connection from a broken one.
//
// What a stream of this package promises and a bare yamux stream does not:
//
//   - A session that dies is an error to every reader and writer
//     ([ErrLost], also io.ErrUnexpectedEOF), never a clean EOF.
//   - A deadline that passes is a bare os.ErrDeadlineExceeded, so that
//     crypto/tls on top of a stream survives it (net/http's Hijack relies on
//     that).
//   - A half-closed stream stays open as long as its owner wants.
//   - Reset reaches both ends and frees a writer that waits for credit.
//   - Nothing done to one stream ends the session.
//   - A peer that is gone is noticed in seconds, a peer that is merely slow is
//     left alone.
//   - A dying session costs no processor time, however many readers wait.
//
// Only this package imports yamux.
package tunnel
