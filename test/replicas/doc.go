// Package replicas tests several relays with the real programs on hosts of a lab:
// behind a balancer of TCP connections with one address, behind a name, as a list;
// while they become more and fewer, and while one after the other is replaced under
// load.
package replicas
