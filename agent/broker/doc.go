// Package broker lets a process without any power reach pods: it asks another one,
// the broker, for a socket that is connected with a pod's port, and gets the
// descriptor over a Unix socket. The broker decides by its own policy; whoever asks
// can name a pod's UID and a port and nothing else.
//
// A [Server] is the broker's end, over a [reach.Local]. A [Client] is the other one,
// and a [reach.Pods] as the Local itself is.
//
// # Protocol
//
// Both ends are of the same build in the same pod, and of different ones only for
// as long as an update is half done. The socket is SOCK_SEQPACKET: a message is a
// packet, and packets have bounds. All numbers are big-endian.
//
// The client sends questions, the server answers each before it reads the next one.
// A client that wants several answers at once makes several connections; one that
// does not want its answer any more closes the connection.
//
//	question   version (1 byte), kind (1), port (2), milliseconds it may take (4), UID (the rest)
//	answer     version (1), kind (1), code of proto/stream (2), text, cause, pod
//	state      version (1), kind (1), flags (1), text: why the pods are not known, empty if they are
//	pods       version (1), kind (1), flags (1), pods up to the end
//	text       length (2), bytes
//	pod        flags (1), seconds since 1970 (8), nanoseconds (4), namespace, name, UID (text each)
//
// With the code 0 the answer to "connect" carries the socket (SCM_RIGHTS). An answer
// ends behind the cause if nothing is known of the pod. After "follow" the server
// sends states and lists of all pods, in pieces, whenever they change, and a state
// at least every 5 s, until one end closes. A message of another version, or that
// cannot be read, is answered with a code if that is possible, and the connection
// is closed.
package broker
