package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containers "github.com/containerd/containerd/api/services/containers/v1"
	events "github.com/containerd/containerd/api/services/events/v1"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// The labels by which the CRI part of containerd marks a pod's sandbox.
const (
	labelKind      = "io.cri-containerd.kind"
	kindSandbox    = "sandbox"
	labelName      = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelUID       = "io.kubernetes.pod.uid"
)

// taskTimeout is for one task: a shim that hangs must not hold up the others.
const taskTimeout = time.Second

type eventKind uint8

const (
	eventIgnored eventKind = iota
	containerChanged
	sandboxRemoved
	taskStarted
	taskExited
)

// event says that something happened to a container, which may be a sandbox.
type event struct {
	kind eventKind
	id   string
}

// runtime is the part of a connection to containerd that is needed here.
type runtime interface {
	// subscribe returns a function that waits for the next event. It fails when
	// ctx or the connection ends.
	subscribe(ctx context.Context) (next func() (event, error), err error)
	// list calls put for every sandbox of the pod; uid empty: of all pods.
	list(ctx context.Context, uid string, put func(record)) error
	// get returns one container, and whether it is there and a sandbox.
	get(ctx context.Context, id string) (record, bool, error)
	// task says whether a sandbox's task runs; taskUnknown if there is no clear
	// answer in time.
	task(ctx context.Context, id string) taskState
	// close ends the connection.
	close() error
}

// containerd is a connection by gRPC. The full client of containerd is not used:
// these three services are all that is needed of it.
type containerd struct {
	namespace  string
	netnsDir   string
	conn       *grpc.ClientConn
	containers containers.ContainersClient
	events     events.EventsClient
	tasks      tasks.TasksClient
}

func dialContainerd(cfg ContainerdConfig) (runtime, error) {
	conn, err := grpc.NewClient("unix:"+cfg.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize)))
	if err != nil {
		return nil, fmt.Errorf("dial containerd: %w", err)
	}
	return &containerd{
		namespace: cfg.Namespace, netnsDir: cfg.NetNSDir, conn: conn,
		containers: containers.NewContainersClient(conn),
		events:     events.NewEventsClient(conn),
		tasks:      tasks.NewTasksClient(conn),
	}, nil
}

func (c *containerd) close() error { return c.conn.Close() }

func (c *containerd) scope(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.namespace)
}

func (c *containerd) subscribe(ctx context.Context) (func() (event, error), error) {
	var filters []string
	for _, topic := range []string{
		"/containers/create", "/containers/update", "/containers/delete", "/tasks/start", "/tasks/exit",
	} {
		filters = append(filters, fmt.Sprintf("namespace==%s,topic==%s", strconv.Quote(c.namespace), strconv.Quote(topic)))
	}
	stream, err := c.events.Subscribe(c.scope(ctx), &events.SubscribeRequest{Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	return func() (event, error) {
		for {
			envelope, err := stream.Recv()
			if err != nil {
				return event{}, fmt.Errorf("follow events: %w", err)
			}
			e, err := eventOf(envelope)
			if err != nil || e.kind != eventIgnored {
				return e, err
			}
		}
	}, nil
}

// eventOf reads what is of use here from an event.
func eventOf(envelope *types.Envelope) (event, error) {
	var err error
	read := func(m proto.Message) { err = proto.Unmarshal(envelope.GetEvent().GetValue(), m) }
	e := event{}
	switch envelope.GetTopic() {
	case "/containers/create":
		var m eventsapi.ContainerCreate
		read(&m)
		e = event{containerChanged, m.GetID()}
	case "/containers/update":
		var m eventsapi.ContainerUpdate
		read(&m)
		if m.GetLabels()[labelKind] == kindSandbox {
			e = event{containerChanged, m.GetID()}
		}
	case "/containers/delete":
		var m eventsapi.ContainerDelete
		read(&m)
		e = event{sandboxRemoved, m.GetID()}
	case "/tasks/start":
		var m eventsapi.TaskStart
		read(&m)
		e = event{taskStarted, m.GetContainerID()}
	case "/tasks/exit":
		var m eventsapi.TaskExit
		read(&m)
		if m.GetID() == m.GetContainerID() { // otherwise a process run inside
			e = event{taskExited, m.GetContainerID()}
		}
	}
	if err != nil {
		return event{}, fmt.Errorf("read event %.100q: %w", envelope.GetTopic(), err)
	}
	return e, nil
}

// list streams, because one message with all pods may be larger than a message
// can be.
func (c *containerd) list(ctx context.Context, uid string, put func(record)) error {
	filter := fmt.Sprintf("labels.%q==%q", labelKind, kindSandbox)
	if uid != "" {
		filter += fmt.Sprintf(",labels.%q==%q", labelUID, uid)
	}
	ctx, cancel := context.WithCancel(c.scope(ctx)) // ends the stream if left early
	defer cancel()
	stream, err := c.containers.ListStream(ctx, &containers.ListContainersRequest{Filters: []string{filter}})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list sandboxes: %w", err)
		}
		if r, is := recordOf(m.GetContainer(), c.netnsDir); is {
			put(r)
		}
	}
}

func (c *containerd) get(ctx context.Context, id string) (record, bool, error) {
	response, err := c.containers.Get(c.scope(ctx), &containers.GetContainerRequest{ID: id})
	switch status.Code(err) {
	case codes.OK:
		r, is := recordOf(response.GetContainer(), c.netnsDir)
		return r, is, nil
	case codes.NotFound:
		return record{}, false, nil
	}
	return record{}, false, fmt.Errorf("get container: %w", err)
}

func (c *containerd) task(ctx context.Context, id string) taskState {
	asked, cancel := context.WithTimeout(c.scope(ctx), taskTimeout)
	defer cancel()
	response, err := c.tasks.Get(asked, &tasks.GetRequest{ContainerID: id})
	switch {
	case status.Code(err) == codes.NotFound:
		return taskGone
	case err != nil:
		// Its shim is ending, or hangs. If it is the connection, the events end too.
		return taskUnknown
	case response.GetProcess().GetStatus() == task.Status_STOPPED:
		return taskGone
	}
	return taskRunning
}

// recordOf describes a container if it is a sandbox of a pod that can be asked
// for.
func recordOf(c *containers.Container, netnsDir string) (record, bool) {
	labels := c.GetLabels()
	r := record{id: c.GetID(), pod: Pod{
		Namespace: labels[labelNamespace], Name: labels[labelName], UID: labels[labelUID],
		Created: c.GetCreatedAt().AsTime(),
	}}
	if labels[labelKind] != kindSandbox || !validUID(r.pod.UID) {
		return record{}, false
	}
	if n, ns := len(r.pod.Name), len(r.pod.Namespace); n == 0 || n > maxName || ns == 0 || ns > maxNamespace {
		r.pod.Name, r.pod.Namespace = "", ""
		r.err = fmt.Errorf("sandbox has a pod name of %d and a namespace of %d bytes", n, ns)
		return r, true
	}
	r.pod.NetNS, r.pod.HostNetwork, r.err = networkOf(c.GetSpec().GetValue())
	r.pod.NetNS = seenAt(netnsDir, r.pod.NetNS)
	return r, true
}
