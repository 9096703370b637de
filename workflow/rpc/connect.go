package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow"
)

const (
	// helloTime is how long an agent may take to say Hello.
	helloTime = 20 * time.Second
	// inboxBytes bounds what is read ahead of one agent; more waits in the network.
	inboxBytes = 1 << 20
	// maxInventory bounds an inventory.
	maxInventory = 512 << 10
)

type stream = grpc.BidiStreamingServer[pb.ConnectRequest, pb.ConnectResponse]

// Connect implements the AgentService.
func (s *Server) Connect(st stream) error {
	ctx := st.Context()
	name, bootID, digest, err := s.peer(ctx)
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "%v: enrol first", err)
	}
	if name, err = s.present(ctx, name, bootID, digest); err != nil {
		return err
	}
	in := newInbox()
	defer in.close()
	received := make(chan error, 1)
	hello := make(chan *pb.Hello, 1)
	// Recv returns at the latest when this handler has; Run waits for it.
	s.receivers.Go(func() { received <- receive(st, in, hello) })
	h, err := waitHello(ctx, hello, received)
	if err != nil {
		return err
	}
	if h.GetBootId() != bootID {
		return status.Error(codes.PermissionDenied, "Hello names another boot than the certificate")
	}
	err = s.serve(ctx, st, in, received, workflow.Arrival{Machine: string(name), BootID: bootID, Hello: h, Address: peerAddr(ctx)})
	return s.afterRename(ctx, err, name, bootID, digest)
}

// peer returns who has connected, and the digest of its key.
func (s *Server) peer(ctx context.Context) (name machine.Name, bootID, digest string, err error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", "", "", errors.New("no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", "", "", errors.New("no TLS")
	}
	name, bootID, err = s.cfg.Trust.Peer(info.State)
	return name, bootID, keyDigest(info.State), err
}

func peerAddr(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	if a, ok := p.Addr.(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func waitHello(ctx context.Context, hello <-chan *pb.Hello, received <-chan error) (*pb.Hello, error) {
	timer := time.NewTimer(helloTime)
	defer timer.Stop()
	select {
	case h := <-hello:
		return h, nil
	case err := <-received:
		return nil, err
	case <-timer.C:
		return nil, status.Error(codes.DeadlineExceeded, "no Hello in time")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve attends to one agent until its stream ends.
func (s *Server) serve(ctx context.Context, st stream, in *inbox, received <-chan error, a workflow.Arrival) error {
	session, err := s.cfg.Controller.Attach(ctx, a)
	if err != nil {
		return statusOf(err)
	}
	defer s.cfg.Controller.Detach(context.WithoutCancel(ctx), session)
	welcome := &pb.Welcome{ServerTime: timestamppb.New(s.cfg.Now()), HeartbeatInterval: durationpb.New(s.cfg.Heartbeat)}
	if err := st.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	if err := sendAcks(st, session.Acks()); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-received:
			if err == nil { // the agent has said all it will
				err = statusOf(s.takeIn(ctx, st, session, in, a.Machine))
			}
			return err
		case <-session.Fenced():
			if session.Superseded() {
				return status.Error(codes.Aborted, workflow.ErrFenced.Error())
			}
			return status.Error(codes.Canceled, "the agent has connected again")
		case <-in.news:
			if err := s.takeIn(ctx, st, session, in, a.Machine); err != nil {
				return statusOf(err)
			}
		case <-session.Wake():
			messages, err := session.Next(ctx)
			if err != nil {
				return statusOf(err)
			}
			for _, m := range messages {
				if err := st.Send(m); err != nil {
					return err
				}
			}
		}
	}
}

// takeIn deals with all that the agent has sent so far.
func (s *Server) takeIn(ctx context.Context, st stream, session *workflow.Session, in *inbox, name string) error {
	events, progress, inventory := in.take()
	if inventory != nil {
		if err := s.cfg.Machines.Inventory(ctx, machine.Name(name), inventory); err != nil {
			return err
		}
		s.sight(machine.Sighting{Machine: machine.Name(name), Event: "inventory", Address: peerAddr(ctx)})
	}
	if len(events) > 0 {
		acks, err := s.cfg.Controller.Report(ctx, session, events)
		if err != nil {
			return err
		}
		if err := sendAcks(st, acks); err != nil {
			return err
		}
	}
	for _, p := range progress {
		s.cfg.Controller.SetProgress(session, p.GetWorkflow(), p.GetStep(), p.GetProgress())
	}
	return nil
}

func sendAcks(st stream, acks []*pb.Ack) error {
	for _, a := range acks {
		if err := st.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Ack{Ack: a}}); err != nil {
			return err
		}
	}
	return nil
}

// statusOf gives an error its code: the agent tries again after most.
func statusOf(err error) error {
	if _, ok := status.FromError(err); ok { // nil too
		return err
	}
	switch {
	case errors.Is(err, workflow.ErrFenced):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, workflow.ErrProtocol):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.Unauthenticated, "the machine is not known any more: restart it")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		return status.Error(codes.Unavailable, err.Error())
	}
}

// inbox holds what an agent has sent until it is dealt with. Progress and
// inventory are replaced by newer ones; events wait in the network when there
// are too many.
type inbox struct {
	news chan struct{}

	mu        sync.Mutex
	room      *sync.Cond
	closed    bool
	bytes     int
	events    []*pb.StepEvents
	progress  map[string]*pb.ConnectRequest_StepProgress
	inventory *pb.Inventory
}

func newInbox() *inbox {
	in := &inbox{news: make(chan struct{}, 1), progress: map[string]*pb.ConnectRequest_StepProgress{}}
	in.room = sync.NewCond(&in.mu)
	return in
}

func (in *inbox) take() ([]*pb.StepEvents, map[string]*pb.ConnectRequest_StepProgress, *pb.Inventory) {
	in.mu.Lock()
	defer in.mu.Unlock()
	events, progress, inventory := in.events, in.progress, in.inventory
	in.events, in.bytes, in.inventory = nil, 0, nil
	if len(progress) > 0 {
		in.progress = map[string]*pb.ConnectRequest_StepProgress{}
	}
	in.room.Broadcast()
	return events, progress, inventory
}

func (in *inbox) signalLocked() {
	select {
	case in.news <- struct{}{}:
	default:
	}
}

// maxEvents bounds the events of one message.
const maxEvents = 5000

// maxProgress bounds the steps of which progress waits.
const maxProgress = 64

// put keeps a message; it waits while there is no room for events.
func (in *inbox) put(m *pb.ConnectRequest) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch m := m.GetMessage().(type) {
	case *pb.ConnectRequest_Events:
		if n := len(m.Events.GetEvents()); n > maxEvents {
			return status.Errorf(codes.InvalidArgument, "%d events in one message, at most %d", n, maxEvents)
		}
		for in.bytes >= inboxBytes && !in.closed {
			in.room.Wait()
		}
		in.events = append(in.events, m.Events)
		in.bytes += proto.Size(m.Events)
	case *pb.ConnectRequest_Progress:
		if len(in.progress) < maxProgress || in.progress[m.Progress.GetStep()] != nil {
			in.progress[m.Progress.GetStep()] = m.Progress
		}
	case *pb.ConnectRequest_Inventory:
		if proto.Size(m.Inventory) > maxInventory {
			return status.Errorf(codes.InvalidArgument, "inventory of %d bytes, at most %d", proto.Size(m.Inventory), maxInventory)
		}
		in.inventory = m.Inventory.GetInventory()
	case *pb.ConnectRequest_Heartbeat:
		return nil
	default:
		return status.Error(codes.InvalidArgument, "message of a kind that has no place here")
	}
	in.signalLocked()
	return nil
}

// receive reads the stream until it ends. The error is what Connect returns.
func receive(st stream, in *inbox, hello chan<- *pb.Hello) error {
	defer in.close()
	first, err := st.Recv()
	if err != nil {
		return ended(err)
	}
	if first.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "the first message must be Hello")
	}
	hello <- first.GetHello()
	for {
		m, err := st.Recv()
		if err != nil {
			return ended(err)
		}
		if err := in.put(m); err != nil {
			return err
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.room.Broadcast()
}
