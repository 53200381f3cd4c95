//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podStart bounds the making of one pod.
const podStart = 30 * time.Second

// PodConfig says what pod to run, as a kubelet would ask for it.
type PodConfig struct {
	// Namespace is its namespace. Empty means "default".
	Namespace string
	// Name is its name. Required.
	Name string
	// UID is its UID. Empty means "uid-" and the name.
	UID string
	// Attempt counts the sandboxes of one pod: a kubelet that makes a new
	// sandbox for a pod adds one.
	Attempt uint32
	// HostNetwork runs the pod in the network namespace of containerd.
	HostNetwork bool
	// Args are the arguments of podserver in the pod's only container, whose name
	// is "main". Nil means a pod without a container. RunPod waits for "ready".
	Args []string
}

// Pod is a pod that was run.
type Pod struct {
	// ID is the id of the sandbox.
	ID string
	// IP is its address; the zero Addr for a pod on the host's network.
	IP netip.Addr
	// PID is the process id of the sandbox's first process.
	PID int
	// Config is what was asked for, with its defaults filled in.
	Config PodConfig
}

// NetNS is the path of the pod's network namespace, which lasts as long as the
// pod's first process.
func (p *Pod) NetNS() string { return fmt.Sprintf("/proc/%d/ns/net", p.PID) }

// RunPod runs a pod and returns when its services listen. The caller may stop and
// remove it; Close does so otherwise.
func (c *Containerd) RunPod(ctx context.Context, cfg PodConfig) (*Pod, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "default"
	}
	if cfg.UID == "" {
		cfg.UID = "uid-" + cfg.Name
	}
	ctx, cancel := context.WithTimeout(ctx, podStart)
	defer cancel()
	config := c.sandboxConfig(cfg)
	sandbox, err := c.pods.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("run pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	pod := &Pod{ID: sandbox.GetPodSandboxId(), Config: cfg}
	err = c.inspect(ctx, pod)
	if err == nil && cfg.Args != nil {
		err = c.runContainer(ctx, pod, config)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run pod %s/%s: %w", cfg.Namespace, cfg.Name, err), c.RemovePod(ctx, pod))
	}
	return pod, nil
}

func (c *Containerd) sandboxConfig(cfg PodConfig) *cri.PodSandboxConfig {
	network := cri.NamespaceMode_POD
	if cfg.HostNetwork {
		network = cri.NamespaceMode_NODE
	}
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{
			Name: cfg.Name, Namespace: cfg.Namespace, Uid: cfg.UID, Attempt: cfg.Attempt,
		},
		Labels: map[string]string{
			"io.kubernetes.pod.name":      cfg.Name,
			"io.kubernetes.pod.namespace": cfg.Namespace,
			"io.kubernetes.pod.uid":       cfg.UID,
		},
		LogDirectory: filepath.Join(c.dir, "logs", fmt.Sprintf("%s_%s_%s_%d", cfg.Namespace, cfg.Name, cfg.UID, cfg.Attempt)),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/" + c.group,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: network, Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
}

// FindPod returns the running pod of that name, which may have been made by a
// kubelet.
func (c *Containerd) FindPod(ctx context.Context, namespace, name string) (*Pod, error) {
	list, err := c.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{
			"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace,
		},
	}})
	if err == nil && len(list.GetItems()) != 1 {
		err = fmt.Errorf("%d pods run under that name", len(list.GetItems()))
	}
	if err != nil {
		return nil, fmt.Errorf("find pod %s/%s: %w", namespace, name, err)
	}
	item := list.GetItems()[0]
	pod := &Pod{ID: item.GetId(), Config: PodConfig{
		Namespace: namespace, Name: name, UID: item.GetMetadata().GetUid(), Attempt: item.GetMetadata().GetAttempt(),
	}}
	if err := c.inspect(ctx, pod); err != nil {
		return nil, fmt.Errorf("find pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}

// inspect fills in what CRI knows of a sandbox.
func (c *Containerd) inspect(ctx context.Context, pod *Pod) error {
	status, err := c.pods.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod.ID, Verbose: true})
	if err != nil {
		return err
	}
	if ip := status.GetStatus().GetNetwork().GetIp(); ip != "" {
		if pod.IP, err = netip.ParseAddr(ip); err != nil {
			return err
		}
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil {
		return fmt.Errorf("read sandbox info: %w", err)
	}
	pod.PID = info.PID
	return nil
}

func (c *Containerd) runContainer(ctx context.Context, pod *Pod, config *cri.PodSandboxConfig) error {
	created, err := c.pods.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  pod.ID,
		SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"},
			Image:    &cri.ImageSpec{Image: PodImage},
			Args:     pod.Config.Args,
			Labels:   config.Labels,
			LogPath:  "main.log",
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions,
			}},
		},
	})
	if err != nil {
		return err
	}
	id := created.GetContainerId()
	if _, err := c.pods.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	return c.poll(ctx, "wait for podserver", func(ctx context.Context) error {
		log, err := os.ReadFile(filepath.Join(config.LogDirectory, "main.log"))
		if err == nil && strings.Contains(string(log), "stdout F ready\n") {
			return nil
		}
		status, err := c.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err == nil && status.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED {
			err = permanent{fmt.Errorf("it ended: %s", log)}
		}
		return errors.Join(err, errors.New("it is not ready"))
	})
}

// StopPod ends the processes of a pod and takes its network away; the stopped
// sandbox stays known to containerd. Idempotent.
func (c *Containerd) StopPod(ctx context.Context, pod *Pod) error {
	if _, err := c.pods.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.ID}); err != nil {
		return fmt.Errorf("stop pod %s/%s: %w", pod.Config.Namespace, pod.Config.Name, err)
	}
	return nil
}

// RemovePod stops a pod and makes containerd forget it. Idempotent.
func (c *Containerd) RemovePod(ctx context.Context, pod *Pod) error {
	if err := c.StopPod(ctx, pod); err != nil {
		return err
	}
	if _, err := c.pods.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.ID}); err != nil {
		return fmt.Errorf("remove pod %s/%s: %w", pod.Config.Namespace, pod.Config.Name, err)
	}
	return nil
}

// removeAll removes every pod, also those that others than RunPod made.
func (c *Containerd) removeAll(ctx context.Context) error {
	list, err := c.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, item := range list.GetItems() {
		metadata := item.GetMetadata()
		pod := &Pod{ID: item.GetId(), Config: PodConfig{Namespace: metadata.GetNamespace(), Name: metadata.GetName()}}
		errs = append(errs, c.RemovePod(ctx, pod))
	}
	return errors.Join(errs...)
}
