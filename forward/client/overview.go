package client

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/culvert-k8s/culvert/proto/control/v1"
)

// Overview is what all relays that can be found say of the streams through them.
type Overview struct {
	Relays []RelayStreams
	// Missing is how many more relays there are that could not be asked.
	Missing int
}

// RelayStreams is what one relay says.
type RelayStreams struct {
	ID, Addr string // Addr is the address that was given, not the one dialled
	// All tells that streams of others are shown too.
	All     bool
	LeftOut int // streams that were too many to list
	Streams []*controlv1.StreamInfo
}

// Overview asks every relay that can be found for its streams; those that serve the
// same pods are told by the first one. The error is that of the first one: the
// others may be missing.
func (c *Client) Overview(ctx context.Context, filter *controlv1.ListStreamsRequest) (*Overview, error) {
	out := &Overview{}
	missing, err := c.everyRelay(ctx, "list streams", func(ctx context.Context, l *link, v controlv1.ViewClient) (bool, error) {
		r, err := v.ListStreams(ctx, filter, grpc.MaxCallRecvMsgSize(maxView))
		if err != nil {
			return false, err
		}
		out.Relays = append(out.Relays, RelayStreams{
			ID: r.GetRelayId(), Addr: l.relay, All: r.GetAll(), LeftOut: int(r.GetLeftOut()), Streams: r.GetStreams(),
		})
		return false, nil
	})
	out.Missing = missing
	return out, err
}

// StopStream ends the stream with the id, of which the first 8 digits may do, at
// whichever relay it is.
func (c *Client) StopStream(ctx context.Context, id string) (*controlv1.StreamInfo, error) {
	var stopped *controlv1.StreamInfo
	var unknown error
	const what = "stop a stream"
	missing, err := c.everyRelay(ctx, what, func(ctx context.Context, _ *link, v controlv1.ViewClient) (bool, error) {
		r, err := v.StopStream(ctx, &controlv1.StopStreamRequest{Id: id})
		if status.Code(err) == codes.NotFound {
			unknown = err
			return false, nil
		}
		stopped = r.GetStream()
		return err == nil, err
	})
	switch {
	case err != nil:
		return nil, err
	case stopped != nil:
		return stopped, nil
	case missing > 0:
		return nil, errors.Join(&callError{what, unknown}, errMissing)
	}
	return nil, &callError{what, unknown}
}

// errMissing goes with an answer that another relay might have changed.
var errMissing = errors.New("not every relay could be asked")

// everyRelay calls f for each relay that can be found, until it is enough. It
// returns how many could not be asked. An error of the first relay is an error; so
// is what another one refuses with reasons.
func (c *Client) everyRelay(
	ctx context.Context, what string, f func(context.Context, *link, controlv1.ViewClient) (enough bool, err error),
) (missing int, err error) {
	wait, cancel := context.WithTimeout(ctx, c.cfg.WaitTimeout)
	l, err := c.current(wait)
	cancel()
	if err != nil {
		return 0, err
	}
	asked, there, first := make(map[string]bool), 1, true
	for ; l != nil; first = false {
		about, err := l.ask(ctx)
		if err == nil {
			asked[about.GetRelayId()] = true
			there = max(there, int(about.GetRelays()))
			var enough bool
			if enough, err = f(ctx, l, controlv1.NewViewClient(l.control())); enough {
				return 0, nil
			}
		}
		switch {
		case err != nil && (first || status.Code(err) != codes.Unavailable):
			return 0, &callError{what, err}
		case err != nil:
			missing++
		}
		if len(asked) >= there && len(c.cfg.Relays) < 2 {
			break
		}
		l = c.another(ctx, asked, true)
	}
	return missing + max(0, there-len(asked)), nil
}
