package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// welcomeTimeout is how long the server may take over Hello.
	welcomeTimeout = 20 * time.Second
	// logDelay is how long log lines wait for more to go with them.
	logDelay = 100 * time.Millisecond
	// progressInterval allows four a second.
	progressInterval = 250 * time.Millisecond
	heartbeatDefault = 10 * time.Second
	heartbeatLeast   = time.Second
	heartbeatMost    = time.Minute
	// busyLimit is how long a running workflow may keep an agent without a
	// valid identity from rebooting.
	busyLimit = time.Hour
)

type stream = grpc.BidiStreamingClient[pb.ConnectRequest, pb.ConnectResponse]

// serve keeps a stream to the server, for ever.
func (a *Agent) serve(ctx context.Context, id *identity) error {
	wait := backoff{jitter: a.cfg.Jitter}
	var lost time.Time
	for {
		welcomed, err := a.connect(ctx, id)
		if welcomed {
			wait.reset()
			lost = time.Time{}
		}
		switch status.Code(err) {
		case codes.Aborted:
			return fmt.Errorf("%w: %s", ErrFenced, status.Convert(err).Message())
		case codes.Unauthenticated, codes.PermissionDenied:
			return a.outlive(ctx, fmt.Errorf("%w: %s", ErrIdentity, status.Convert(err).Message()))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if lost.IsZero() {
			lost = a.cfg.Now()
			a.cfg.Say("connection to the server lost, trying again: %v", err)
		}
		a.cfg.Log.Warn("stream ended", "err", err)
		if !sleep(ctx, wait.next()) {
			return ctx.Err()
		}
		if a.cfg.Now().After(id.expires) {
			if err := a.enrolOnce(ctx, id); errors.Is(err, ErrToken) {
				return a.outlive(ctx, fmt.Errorf("%w: %v", ErrIdentity, err))
			}
		}
	}
}

// outlive lets the steps that run come to their end, within bounds, before an
// agent that can't report any more gives up.
func (a *Agent) outlive(ctx context.Context, cause error) error {
	a.cfg.Say("%v", cause)
	timer := time.NewTimer(busyLimit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	case <-a.runner.idle():
	}
	return cause
}

// connect serves one stream until it ends. It reports whether it got as far as
// Welcome.
func (a *Agent) connect(ctx context.Context, id *identity) (welcomed bool, err error) {
	conn, err := a.cfg.Dial(id.certificate)
	if err != nil {
		return false, fmt.Errorf("dialling: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(welcomeTimeout, func() { cancel(errWelcome) })
	defer late.Stop()
	st, err := pb.NewAgentServiceClient(conn).Connect(ctx)
	if err != nil {
		return false, err
	}
	uid, run := a.outbox.current()
	hello := &pb.Hello{BootId: a.cfg.BootID, Version: a.cfg.Version, WorkflowUid: uid, Run: run, UptimeSeconds: a.cfg.Uptime().Seconds(), Address: a.cfg.Address()}
	if err := st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return false, streamError(st, err)
	}
	first, err := st.Recv()
	if err != nil {
		return false, cause(ctx, err)
	}
	welcome := first.GetWelcome()
	if welcome == nil || !late.Stop() {
		return false, errWelcome
	}
	a.setClock(welcome.GetServerTime().AsTime())
	a.cfg.Say("connected to the server as machine %s", id.machine)
	a.outbox.restart()
	if a.facts.get() != nil {
		signal(a.facts.changed)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		if err := a.send(ctx, st, heartbeatInterval(welcome)); err != nil {
			cancel(err)
		}
	})
	return true, cause(ctx, a.receive(st))
}

var errWelcome = errors.New("the server did not welcome this agent")

// cause is the reason for which a stream was ended on this side, if it was.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); status.Code(err) == codes.Canceled && c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}

// streamError returns why a send failed: the status comes with the receipt.
func streamError(st stream, err error) error {
	if _, rerr := st.Recv(); rerr != nil {
		return rerr
	}
	return err
}

func heartbeatInterval(w *pb.Welcome) time.Duration {
	d := w.GetHeartbeatInterval().AsDuration()
	if d <= 0 {
		d = heartbeatDefault
	}
	return min(max(d, heartbeatLeast), heartbeatMost)
}

// receive takes what the server says, until the stream ends.
func (a *Agent) receive(st stream) error {
	for {
		msg, err := st.Recv()
		if err != nil {
			return err
		}
		switch m := msg.GetMessage().(type) {
		case *pb.ConnectResponse_Ack:
			a.outbox.ack(m.Ack)
		case *pb.ConnectResponse_Plan:
			a.runner.give(order{plan: m.Plan})
		case *pb.ConnectResponse_Cancel:
			a.runner.give(order{cancel: m.Cancel})
		case *pb.ConnectResponse_Approval:
			a.runner.give(order{approval: m.Approval})
		case *pb.ConnectResponse_CollectInventory:
			signal(a.facts.collect)
		case *pb.ConnectResponse_Welcome:
			a.setClock(m.Welcome.GetServerTime().AsTime())
		default:
			a.cfg.Log.Warn("message of an unknown kind passed over")
		}
	}
}

// send is the stream's one sender.
func (a *Agent) send(ctx context.Context, st stream, interval time.Duration) error {
	heartbeat := time.NewTicker(interval)
	defer heartbeat.Stop()
	progress := time.NewTicker(progressInterval)
	defer progress.Stop()
	delay := time.NewTimer(logDelay)
	delay.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-a.outbox.urgent:
			err = errors.Join(a.sendProgress(st), a.sendEvents(st))
		case <-a.outbox.lines:
			delay.Reset(logDelay)
			err = a.waitLines(ctx, st, delay)
		case <-progress.C:
			err = a.sendProgress(st)
		case <-a.facts.changed:
			err = st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Inventory{Inventory: &pb.InventoryReport{Inventory: a.facts.get()}}})
		case <-heartbeat.C:
			err = st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Heartbeat{Heartbeat: &pb.Heartbeat{UptimeSeconds: a.cfg.Uptime().Seconds()}}})
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil // the server has ended the stream; receive hears why
		case err != nil:
			return fmt.Errorf("sending: %w", err)
		}
	}
}

// waitLines gives log lines a moment to gather, unless a state change comes.
func (a *Agent) waitLines(ctx context.Context, st stream, delay *time.Timer) error {
	defer delay.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-a.outbox.urgent:
	case <-delay.C:
	}
	return a.sendEvents(st)
}

func (a *Agent) sendEvents(st stream) error {
	for {
		b, more := a.outbox.batch()
		if b == nil {
			return nil
		}
		if err := st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Events{Events: b}}); err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

func (a *Agent) sendProgress(st stream) error {
	workflow := a.runner.workflow()
	_, all := a.outbox.takeProgress()
	for id, p := range all {
		m := &pb.ConnectRequest_StepProgress{Workflow: workflow, Step: id, Progress: p}
		if err := st.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Progress{Progress: m}}); err != nil {
			return err
		}
	}
	return nil
}
