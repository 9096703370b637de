package api

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// unaryTimeout is the longest that a single call may take.
	unaryTimeout = 30 * time.Second
	// maxStreams bounds the streams of all clients together.
	maxStreams = 4096
)

// intercept is around every single call.
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	began := s.cfg.DB.Now()
	defer func() {
		err = s.finish(ctx, info.FullMethod, began, recover(), err)
		if err != nil {
			resp = nil
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
	defer cancel()
	ctx, err = s.authorize(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// interceptStream is around every stream. The stream's context ends when the
// server stops.
func (s *Server) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	began := s.cfg.DB.Now()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer func() { err = s.finish(ctx, info.FullMethod, began, recover(), err) }()
	if s.streams.Add(1) > maxStreams {
		s.streams.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "%d streams are open, which is the most: close some, or try again later", maxStreams)
	}
	defer s.streams.Add(-1)
	stop := context.AfterFunc(s.stopping, func() {
		cancel(status.Error(codes.Unavailable, "the server is stopping: connect again"))
	})
	defer stop()
	authorized, err := s.authorize(ctx, info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, &serverStream{ServerStream: stream, ctx: authorized, s: s})
}

// serverStream is a stream with the context of this package, which ends with
// the token that it was begun with.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
	s   *Server
}

// Context implements grpc.ServerStream.
func (w *serverStream) Context() context.Context { return w.ctx }

// SendMsg implements grpc.ServerStream.
func (w *serverStream) SendMsg(m any) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	if _, err := w.s.tokens.lookup(caller(w.ctx).digest, w.s.cfg.DB.Now()); err != nil {
		return err
	}
	return w.ServerStream.SendMsg(m)
}

// finish makes the status that a call ends with, counts it and logs what the
// client isn't told.
func (s *Server) finish(ctx context.Context, method string, began time.Time, panicked any, err error) error {
	if panicked != nil {
		err = fmt.Errorf("panic: %v\n%s", panicked, debug.Stack())
	}
	// A stream that is ended by the server ends for the reason that was given.
	if cause := context.Cause(ctx); err != nil && cause != nil && ctx.Err() != nil {
		if st, ok := status.FromError(cause); ok {
			err = st.Err()
		}
	}
	st := status.New(codes.OK, "")
	if err != nil {
		st = statusOf(err)
	}
	if st.Code() == codes.Internal || st.Code() == codes.DataLoss {
		s.log.Error("call failed", "action", method, "err", err)
	}
	s.metrics.requests.WithLabelValues(method, st.Code().String()).Inc()
	s.metrics.duration.WithLabelValues(method).Observe(s.cfg.DB.Now().Sub(began).Seconds())
	return st.Err()
}
