package kube

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// maxNames bounds what Names returns; nobody reads more behind a tab key.
const maxNames = 500

// Names returns the names of the objects of a type, in the plural of client.Ref
// or "namespaces". There are 500 of them at most.
func Names(ctx context.Context, api *API, namespace, plural string) ([]string, error) {
	list, err := api.list(ctx, namespace, plural, metav1.ListOptions{Limit: maxNames})
	if err != nil {
		return nil, err
	}
	var out []string
	err = meta.EachListItem(list, func(o runtime.Object) error {
		m, err := meta.Accessor(o)
		if err == nil {
			out = append(out, m.GetName())
		}
		return err
	})
	return out, err
}

func (a *API) list(ctx context.Context, namespace, plural string, o metav1.ListOptions) (runtime.Object, error) {
	switch plural {
	case "pods":
		return a.Core.Pods(namespace).List(ctx, o)
	case "services":
		return a.Core.Services(namespace).List(ctx, o)
	case "replicationcontrollers":
		return a.Core.ReplicationControllers(namespace).List(ctx, o)
	case "namespaces":
		return a.Core.Namespaces().List(ctx, o)
	case "deployments":
		return a.Apps.Deployments(namespace).List(ctx, o)
	case "replicasets":
		return a.Apps.ReplicaSets(namespace).List(ctx, o)
	case "statefulsets":
		return a.Apps.StatefulSets(namespace).List(ctx, o)
	case "daemonsets":
		return a.Apps.DaemonSets(namespace).List(ctx, o)
	case "jobs":
		return a.Batch.Jobs(namespace).List(ctx, o)
	}
	return nil, fmt.Errorf("%s cannot be listed", plural)
}

// EachPod calls f with the pods of a namespace, of all if it is empty, a page at a
// time.
func EachPod(ctx context.Context, api *API, namespace string, f func(*corev1.Pod)) error {
	return api.pages(ctx, namespace, "", func(page *corev1.PodList) bool {
		for i := range page.Items {
			f(&page.Items[i])
		}
		return true
	})
}

// pages calls f with the pods that a selector selects, all if it is empty, until it
// wants no more.
func (a *API) pages(ctx context.Context, namespace, selector string, f func(page *corev1.PodList) (more bool)) error {
	o := metav1.ListOptions{LabelSelector: selector, Limit: pageSize}
	for {
		page, err := a.Core.Pods(namespace).List(ctx, o)
		if err != nil {
			return err
		}
		if !f(page) || page.Continue == "" {
			return nil
		}
		o.Continue = page.Continue
	}
}

// PortNames returns what may be named as a port of the target, by number and by
// name, in the order of the object.
func (f *Follower) PortNames() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	add := func(number int32, name string, protocol corev1.Protocol) {
		if protocol == corev1.ProtocolUDP || protocol == corev1.ProtocolSCTP {
			return
		}
		for _, s := range []string{strconv.Itoa(int(number)), name} {
			if s != "" && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	if f.service != nil {
		for _, p := range f.service.ports {
			add(p.Port, p.Name, p.Protocol)
		}
		return out
	}
	for _, p := range f.scene.pods {
		for _, port := range p.ports {
			add(port.number, port.name, port.protocol)
		}
		break // those of one target are alike
	}
	return out
}
