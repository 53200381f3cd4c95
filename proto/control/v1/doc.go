// Package controlv1 is the control plane of Culvert as Go code: the messages
// and gRPC services of control.proto. Everything but this file is generated
// (make generate); what the messages mean is written beside them in
// control.proto.
package controlv1
