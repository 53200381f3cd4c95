package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubeconfig says where it leads.
func (d *doctor) kubeconfig(c *cluster) {
	d.pass("kubeconfig", "context %s, server %s, namespace %s", cmp.Or(c.context, "<none>"), c.rest.Host, c.namespace)
}

// server asks the API server for its version, and who the user is.
func (d *doctor) server(ctx context.Context, c *cluster) (reachable bool) {
	raw, err := c.api.Core.RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		d.fail("api-server", err)
		return false
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	_ = json.Unmarshal(raw, &v) // whoever keeps it to himself is reachable all the same
	d.pass("api-server", "version %s", cmp.Or(v.GitVersion, "not told"))
	review, err := c.api.Authentication.SelfSubjectReviews().Create(ctx, new(authenticationv1.SelfSubjectReview), metav1.CreateOptions{})
	if err != nil {
		d.fail("user", err)
		return !apierrors.IsUnauthorized(err)
	}
	who := review.Status.UserInfo
	d.pass("user", "%s, groups %s", who.Username, cmp.Or(strings.Join(who.Groups, ","), "<none>"))
	return true
}

// right is something that the user needs to be allowed.
type right struct {
	group, resource, sub string
	verb, name           string
	optional             string // what happens without it; empty if it is required
}

func (r right) String() string { return r.verb + " " + r.what() }

// what is the resource as rules name it.
func (r right) what() string {
	if r.sub == "" {
		return r.resource
	}
	return r.resource + "/" + r.sub
}

// needed are the rights for a target; nil is any pod.
func needed(what *request) []right {
	forward := right{resource: "pods", sub: "portforward", verb: "create"}
	switch {
	case what == nil:
		return []right{forward, {resource: "pods", verb: "get"}}
	case what.ref.Type == "pods":
		forward.name = what.ref.Name
		return []right{forward, {resource: "pods", verb: "get", name: what.ref.Name}}
	}
	all := []right{
		forward,
		{resource: "pods", verb: "get"},
		{resource: "pods", verb: "list"},
		{resource: "pods", verb: "watch", optional: "pods are listed every few seconds instead"},
	}
	if what.ref.Type == "" {
		return all
	}
	object := right{resource: what.ref.Type, verb: "get", name: what.ref.Name}
	switch what.ref.Type {
	case "deployments", "replicasets", "statefulsets", "daemonsets":
		object.group = "apps"
	case "jobs":
		object.group = "batch"
	}
	return append([]right{object}, all...)
}

// rights asks what the user may.
func (d *doctor) rights(ctx context.Context, c *cluster, what *request) {
	const check = "rights"
	all := needed(what)
	granted := make([]string, 0, len(all))
	whole := true
	for _, r := range all {
		allowed, why, err := c.may(ctx, r)
		switch {
		case err != nil:
			d.fail(check, err)
			return
		case allowed:
			granted = append(granted, r.String())
			continue
		case r.optional != "":
			d.warn(check, r.optional, "may not %s in namespace %s", r, c.namespace)
			continue
		}
		whole = false
		text := fmt.Sprintf("may not %s in namespace %s", r, c.namespace)
		if why != "" {
			text += " (" + why + ")"
		}
		d.note(finding{
			Check: check, Result: failed, Detail: text, Rule: r.rule(),
			Advice: "have the rule below granted, by a RoleBinding in namespace " + c.namespace,
		})
	}
	if whole {
		d.pass(check, "may %s in namespace %s", strings.Join(slices.Compact(granted), ", "), c.namespace)
	}
}

// may asks the API server, which answers everybody about himself.
func (c *cluster) may(ctx context.Context, r right) (allowed bool, why string, err error) {
	review, err := c.api.Authorization.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: c.namespace, Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.sub, Name: r.name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, "", err
	}
	return review.Status.Allowed, review.Status.Reason, nil
}

// rule is what a role needs, in YAML.
func (r right) rule() string {
	return fmt.Sprintf("- apiGroups: [%q]\n  resources: [%q]\n  verbs: [%q]\n", r.group, r.what(), r.verb)
}
