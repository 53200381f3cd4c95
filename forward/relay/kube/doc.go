// Package kube answers a relay's questions with a Kubernetes API server: who an
// agent is, who a caller is, what he may, and where a pod runs.
//
// The relay has no power over pods. What is asked for a caller is asked with the
// caller's own credential: his bearer token, or, where the operator allows it,
// the relay's token together with the name of the caller (impersonation). The
// relay's token alone goes with one request only, TokenReview for agents; see
// [Config.Impersonate] and credential.go.
//
// Answers are remembered for seconds and never longer than that, also while the
// API server is away: what cannot be asked is refused.
package kube
