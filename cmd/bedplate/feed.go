package main

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// How long a stream that broke is waited for before it is opened again.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = 5 * time.Second
)

// errDone ends a feed, or the loop it feeds, well.
var errDone = errors.New("done")

// feed passes on the messages of a stream. When the stream breaks because the
// server goes away it is opened again, so that a restart of the server is
// only a pause. It ends with ctx, with what send returns (errDone: nil), or
// with an error that another try won't mend. lost is called once for each
// break. patient: the server has answered before, so that even the first try
// may be made again.
func feed[T any](ctx context.Context, patient bool, open func(context.Context) (grpc.ServerStreamingClient[T], error), send func(*T) error, lost func(error) error) error {
	wait := retryFirst
	came := patient
	for {
		err := drain(ctx, open, func(m *T) error {
			came, wait = true, retryFirst
			return send(m)
		})
		switch {
		case errors.Is(err, errDone):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !came || !passing(err):
			return err
		}
		if err := lost(err); err != nil {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, retryMost)
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// passing reports whether a stream that ended so may work again soon.
func passing(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, errStreamEnded) || codeOf(err) == codes.Unavailable
}

func drain[T any](ctx context.Context, open func(context.Context) (grpc.ServerStreamingClient[T], error), send func(*T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := send(m); err != nil {
			return err
		}
	}
}
