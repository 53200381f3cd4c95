// Package agent is the node end of a forward. It keeps a tunnel to every relay
// it is told of, and to every address of a relay's name, takes streams from them, refuses what its own policy refuses,
// and dials the localhost of the pod that a stream names.
//
// The agent dials out and listens on nothing. A relay can ask it for a pod by
// UID and for a port, never for an address; which pods there are, and the way into
// them, are those of package reach: in this process, or in a broker that has the
// powers which this one then does without.
package agent
