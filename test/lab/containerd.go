//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The images that every containerd of the lab has.
const (
	// PauseImage is the sandbox of a pod: podserver reaping children.
	PauseImage = "culvert.test/pause:1"
	// PodImage is podserver; a pod's arguments choose the services.
	PodImage = "culvert.test/podserver:1"
)

const (
	containerdStart = 30 * time.Second // until CRI answers, also on a busy machine
	containerdStop  = 10 * time.Second
	criPoll         = 50 * time.Millisecond
)

// Containerd is a real containerd with runc and CNI, with its own root, state,
// socket, network configuration and cgroup, that nothing else on the machine
// sees. Safe for concurrent use, but Halt, Resume and Close not with each other.
type Containerd struct {
	cfg    ContainerdConfig
	dir    string
	group  string // cgroup that all pods are in
	conn   *grpc.ClientConn
	pods   cri.RuntimeServiceClient
	images cri.ImageServiceClient
	end    context.CancelFunc // ends the daemon
	ctx    context.Context    // bounds the life of the daemon
	reaper *reaper
	close  sync.Once
	err    error // of Close

	mu     sync.Mutex
	daemon *Process
}

// StartContainerd starts containerd, waits until its CRI answers with a ready
// network, and imports the two images. ctx bounds the start only; the caller
// must call Close.
func StartContainerd(ctx context.Context, cfg ContainerdConfig) (*Containerd, error) {
	dir, err := os.MkdirTemp("", "culvert-")
	if err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	group := filepath.Base(dir)
	ownBridge := ""
	if cfg.Bridge == "" {
		ownBridge = "cv" + group[max(0, len(group)-10):]
		cfg.Bridge = ownBridge
	}
	if !cfg.PodCIDR.IsValid() {
		cfg.PodCIDR = netip.MustParsePrefix("10.213.0.0/24")
	}
	if cfg.NetNS == "" {
		cfg.NetNS = "/proc/self/ns/net"
	}
	c := &Containerd{cfg: cfg, dir: dir, group: group}
	c.ctx, c.end = context.WithCancel(context.Background())
	if c.reaper, err = startContainerdReaper(dir, group, cfg.NetNS, ownBridge); err != nil {
		c.end()
		return nil, errors.Join(fmt.Errorf("start containerd: %w", err), os.RemoveAll(dir))
	}
	if err := c.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start containerd: %w", err), c.Close())
	}
	return c, nil
}

func (c *Containerd) build(ctx context.Context) error {
	if err := c.cfg.write(c.dir); err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+c.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	c.conn, c.pods, c.images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	if err := c.Resume(ctx); err != nil {
		return err
	}
	program, err := BuildPodServer(ctx, c.dir)
	if err != nil {
		return err
	}
	for _, image := range []Image{
		{Ref: PauseImage, Program: program, Args: []string{"-pause"}},
		{Ref: PodImage, Program: program},
	} {
		if err := c.Import(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// Socket returns the path of the socket that serves containerd's API and CRI.
func (c *Containerd) Socket() string { return filepath.Join(c.dir, "run", "containerd.sock") }

// Cgroup returns the cgroup, below the root of each hierarchy, that all pods must
// be in to be found by Close when containerd cannot tell any more.
func (c *Containerd) Cgroup() string { return "/" + c.group }

// NetNSDir returns the directory that the network namespaces of pods are in.
func (c *Containerd) NetNSDir() string {
	if c.cfg.NetNSInRun {
		return "/run/netns"
	}
	return filepath.Join(c.dir, "state", "io.containerd.grpc.v1.cri", "netns")
}

// Import adds an image and waits until CRI knows it.
func (c *Containerd) Import(ctx context.Context, image Image) error {
	archive := filepath.Join(c.dir, "image.tar")
	f, err := os.Create(archive)
	if err != nil {
		return fmt.Errorf("import %s: %w", image.Ref, err)
	}
	defer os.Remove(archive)
	if err := errors.Join(image.WriteArchive(f), f.Close()); err != nil {
		return fmt.Errorf("import %s: %w", image.Ref, err)
	}
	return c.ImportArchive(ctx, image.Ref, archive)
}

// ImportArchive adds the image of a tar, an OCI layout or a docker archive, that
// has the name ref there.
func (c *Containerd) ImportArchive(ctx context.Context, ref, archive string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.cfg.Runtime.Bin, "ctr"),
		"--address", c.Socket(), "--namespace", "k8s.io", "images", "import", archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w: %s", ref, err, out)
	}
	return c.poll(ctx, "import "+ref, func(ctx context.Context) error {
		status, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err == nil && status.GetImage() == nil {
			err = errors.New("image is not known yet")
		}
		return err
	})
}

// Halt ends the daemon, with SIGTERM; pods run on. Idempotent.
func (c *Containerd) Halt() error {
	c.mu.Lock()
	daemon := c.daemon
	c.daemon = nil
	c.mu.Unlock()
	if daemon == nil {
		return nil
	}
	if err := daemon.Stop(containerdStop); err != nil {
		return fmt.Errorf("halt containerd: %w", err)
	}
	return nil
}

// Signal sends sig to the daemon: SIGKILL to crash it (then Halt, whose error
// says that it was killed), SIGSTOP and SIGCONT to make it hang. It returns when
// a daemon told to stop has stopped.
func (c *Containerd) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.daemon == nil {
		return os.ErrProcessDone
	}
	if err := c.daemon.Signal(sig); err != nil || sig != syscall.SIGSTOP {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, c.daemon.Pid(), nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return os.NewSyscallError("waitid", err)
		}
	}
}

// Resume starts the daemon and waits until CRI and its network are ready.
func (c *Containerd) Resume(ctx context.Context) error {
	daemon, err := startProcess(c.ctx, c.cfg.NetNS, c.cfg.Log, c.cfg.MountNS.Enter(Command{
		Path: filepath.Join(c.cfg.Runtime.Bin, "containerd"),
		Args: []string{"--config", filepath.Join(c.dir, "config.toml"), "--log-level", "info"},
		Env:  []string{"PATH=" + c.cfg.Runtime.Bin + ":" + os.Getenv("PATH")},
	}))
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.daemon = daemon
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, containerdStart)
	defer cancel()
	// Otherwise the client may still be waiting before its next attempt.
	c.conn.ResetConnectBackoff()
	err = c.poll(ctx, "wait for CRI", func(ctx context.Context) error {
		select {
		case <-daemon.Done():
			return permanent{errors.New("containerd ended")}
		default:
		}
		return c.ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, daemon.log.tail(20))
	}
	return nil
}

// Restart is Halt and Resume.
func (c *Containerd) Restart(ctx context.Context) error {
	if err := c.Halt(); err != nil {
		return err
	}
	return c.Resume(ctx)
}

// ready says why pods cannot be run yet.
func (c *Containerd) ready(ctx context.Context) error {
	status, err := c.pods.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	for _, condition := range status.GetStatus().GetConditions() {
		switch condition.GetType() {
		case cri.RuntimeReady, cri.NetworkReady:
		default:
			continue // a warning
		}
		if !condition.GetStatus() {
			return fmt.Errorf("%s: %s", condition.GetType(), condition.GetMessage())
		}
	}
	return nil
}

// permanent is an error that polling does not cure.
type permanent struct{ error }

// poll repeats try until it succeeds, fails for good, or ctx ends.
func (c *Containerd) poll(ctx context.Context, what string, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ended := (permanent{}); errors.As(err, &ended) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if c.conn != nil {
			c.conn.ResetConnectBackoff()
		}
		if pause(ctx, criPoll) != nil {
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}

// Close removes the pods, ends the daemon and removes all its traces. It returns
// an error if something could not be removed. Idempotent.
func (c *Containerd) Close() error {
	c.close.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), containerdStart)
		defer cancel()
		var errs []error
		c.mu.Lock()
		running := c.daemon != nil
		c.mu.Unlock()
		if running {
			errs = append(errs, c.removeAll(ctx))
		}
		errs = append(errs, c.Halt())
		c.end()
		if c.conn != nil {
			errs = append(errs, c.conn.Close())
		}
		errs = append(errs, c.reaper.close())
		c.err = errors.Join(errs...)
	})
	return c.err
}
