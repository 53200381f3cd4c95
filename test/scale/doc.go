// Scale computes what many nodes would mean for several relays: who holds which
// tunnel, what that takes of memory, how many dials a relay meets when another one
// dies or comes, and how far a connection has to go. It is arithmetic and chance
// from a fixed seed, no network: the same numbers every time.
//
//	go run ./test/scale              # the tables of docs/decisions/0018
//	go run ./test/scale -nodes 200000 -seed 7
//	go run ./test/scale -measure     # what a tunnel and a stream cost a real relay
package main
