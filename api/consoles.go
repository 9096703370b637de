package api

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Consoles are machines' serial consoles. The machine exists and has a BMC
// when it is asked.
type Consoles interface {
	// Log returns the end of a console's recording.
	Log(ctx context.Context, name string, bytes int) (*pb.GetMachineConsoleLogResponse, error)
	// Attach calls send, from one goroutine, with what a console says and what
	// the server has to say about it, until ctx is done or send fails. What is
	// received from typed is typed; it may be nil.
	Attach(ctx context.Context, name string, history int, typed <-chan []byte, send func(data []byte, notice string) error) error
}

// maxTyped is what may be typed at once.
const maxTyped = 64 << 10

// consoleOf refuses machines without a console.
func (a *machineAPI) consoleOf(ctx context.Context, name string) error {
	if a.s.cfg.Consoles == nil {
		return unavailable("consoles")
	}
	return a.managed(ctx, name)
}

// GetMachineConsoleLog implements pb.MachineServiceServer.
func (a *machineAPI) GetMachineConsoleLog(ctx context.Context, r *pb.GetMachineConsoleLogRequest) (*pb.GetMachineConsoleLogResponse, error) {
	if err := a.consoleOf(ctx, r.GetName()); err != nil {
		return nil, err
	}
	n := int(r.GetBytes())
	if n == 0 {
		n = 64 << 10
	}
	out, err := a.s.cfg.Consoles.Log(ctx, r.GetName(), n)
	return out, hookError(err)
}

// WatchMachineConsole implements pb.MachineServiceServer.
func (a *machineAPI) WatchMachineConsole(r *pb.WatchMachineConsoleRequest, stream grpc.ServerStreamingServer[pb.WatchMachineConsoleResponse]) error {
	if err := a.consoleOf(stream.Context(), r.GetName()); err != nil {
		return err
	}
	return hookError(a.s.cfg.Consoles.Attach(stream.Context(), r.GetName(), int(r.GetHistory()), nil, func(data []byte, notice string) error {
		return stream.Send(&pb.WatchMachineConsoleResponse{Data: data, Notice: notice})
	}))
}

// AttachMachineConsole implements pb.MachineServiceServer. Who attaches is in
// the event log.
func (a *machineAPI) AttachMachineConsole(stream grpc.BidiStreamingServer[pb.AttachMachineConsoleRequest, pb.AttachMachineConsoleResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	if h == nil {
		return status.Error(codes.InvalidArgument, "the first message must be the header, with the name of the machine")
	}
	ctx := stream.Context()
	if err := a.consoleOf(ctx, h.GetName()); err != nil {
		return err
	}
	if err := a.noteBMC(ctx, h.GetName(), "ConsoleAttached", "somebody may type on its console"); err != nil {
		return err
	}
	return a.connectConsole(stream, h)
}

// connectConsole passes on both directions until one of them ends.
func (a *machineAPI) connectConsole(stream grpc.BidiStreamingServer[pb.AttachMachineConsoleRequest, pb.AttachMachineConsoleResponse], h *pb.AttachMachineConsoleHeader) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	typed := make(chan []byte)
	// Recv ends with the stream, which ends with this call.
	a.s.receivers.Go(func() {
		defer cancel()
		a.receiveTyped(ctx, stream, typed)
	})
	err := a.s.cfg.Consoles.Attach(ctx, h.GetName(), int(h.GetHistory()), typed, func(data []byte, notice string) error {
		return stream.Send(&pb.AttachMachineConsoleResponse{Data: data, Notice: notice})
	})
	if errors.Is(err, context.Canceled) && stream.Context().Err() == nil {
		return nil // the client has ended
	}
	return hookError(err)
}

// receiveTyped passes on what is typed until the client or its token ends.
func (a *machineAPI) receiveTyped(ctx context.Context, stream grpc.BidiStreamingServer[pb.AttachMachineConsoleRequest, pb.AttachMachineConsoleResponse], typed chan<- []byte) {
	for {
		r, err := stream.Recv()
		if err != nil {
			return
		}
		data := r.GetData()
		if _, err := a.s.tokens.lookup(caller(ctx).digest, a.s.cfg.DB.Now()); err != nil || len(data) > maxTyped {
			return
		}
		if len(data) == 0 {
			continue
		}
		select {
		case typed <- data:
		case <-ctx.Done():
			return
		}
	}
}
