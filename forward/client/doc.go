// Package client is the client's half of Culvert: it keeps a session to a
// relay, turns accepted local connections into streams to pods, and keeps the
// local listeners alive whatever happens behind them.
//
// A [Client] holds one session at a time and replaces it when it is lost. A
// [Forwarder] serves [Listener]s through a Client. Where a stream goes is said by
// a [Route], which is asked again when a stream is refused before any pod has
// seen it. The grammar of ports and targets is kubectl's ([ParsePorts],
// [ParseRef]).
//
// The package prints nothing, reads no environment and knows no flags: what a
// person gets to read is decided by the command.
package client
