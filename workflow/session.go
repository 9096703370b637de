package workflow

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/action"
)

// Arrival is an agent that has connected.
type Arrival struct {
	Machine string
	BootID  string
	Hello   *pb.Hello
	// Address is the peer's.
	Address netip.Addr
}

// Session is one agent's stream. Next and Report are for the one goroutine
// that serves the stream; Wake and Fenced may be read by any.
type Session struct {
	c       *Controller
	machine string
	bootID  string
	address netip.Addr
	version int64 // of the machine's record when the session began
	since   time.Time

	wake   chan struct{}
	fenced chan struct{}
	fence  func()

	// What the agent has been told.
	has       key
	name      string // of the workflow that has is of
	cancelled bool
	told      map[string]bool
}

// key is one run of one workflow.
type key struct {
	uid string
	run uint32
}

func keyOf(wf *pb.Workflow) key {
	return key{wf.GetMetadata().GetUid(), wf.GetStatus().GetRun()}
}

// Attach begins the session of an agent that has proved to be that machine in
// that boot. The error is ErrFenced when a newer boot has enrolled. The caller
// must Detach it.
func (c *Controller) Attach(ctx context.Context, a Arrival) (*Session, error) {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m, err := c.recordArrival(ctx, a)
	if err != nil {
		return nil, err
	}
	s := &Session{
		c: c, machine: a.Machine, bootID: a.BootID, address: a.Address, version: m.GetMetadata().GetResourceVersion(), since: m.GetStatus().GetAgent().GetConnectTime().AsTime(),
		wake: make(chan struct{}, 1), fenced: make(chan struct{}), told: map[string]bool{},
		has: key{a.Hello.GetWorkflowUid(), a.Hello.GetRun()},
	}
	s.fence = sync.OnceFunc(func() { close(s.fenced) })
	c.mu.Lock()
	st := c.stationLocked(a.Machine)
	if st.session != nil {
		st.session.fence()
	}
	st.session = s
	f := c.ownerLocked(a.Machine)
	if f != nil {
		c.armLocked(f)
		s.name = f.name
	}
	c.mu.Unlock()
	c.metrics.sessions.Inc()
	// A newer boot may have enrolled before there was a session to fence.
	if m, err = resource.Get[*pb.Machine](ctx, c.cfg.DB, a.Machine); err == nil && m.GetStatus().GetAgent().GetBootId() != a.BootID {
		err = ErrFenced
	}
	if err != nil {
		c.Detach(context.WithoutCancel(ctx), s)
		return nil, err
	}
	c.observe(machine.Sighting{Time: c.cfg.Now(), Source: machine.SourceAgent, Machine: machine.Name(a.Machine), Address: a.Address, Event: "connected", Detail: "boot " + a.BootID})
	s.poke()
	return s, nil
}

// recordArrival puts on record that the agent is connected.
func (c *Controller) recordArrival(ctx context.Context, a Arrival) (*pb.Machine, error) {
	return resource.Update(ctx, c.cfg.DB, a.Machine, func(m *pb.Machine) error {
		agent := m.GetStatus().GetAgent()
		if agent.GetBootId() != a.BootID {
			return ErrFenced
		}
		agent.Connected, agent.ConnectTime = true, timestamppb.New(c.cfg.Now())
		agent.Version = cut(a.Hello.GetVersion(), 128)
		if a.Address.IsValid() {
			agent.Address = a.Address.String()
		}
		return nil
	})
}

// detachTime bounds what is put on record of an agent that is gone.
const detachTime = 10 * time.Second

// Detach ends the session. The workflow goes on: the agent may come back, but
// not for ever.
func (c *Controller) Detach(ctx context.Context, s *Session) {
	c.metrics.sessions.Dec()
	c.mu.Lock()
	st := c.stations[s.machine]
	newest := st != nil && st.session == s
	if newest {
		st.session, st.away = nil, c.cfg.Now()
		c.retireLocked(st, nil)
		if f := c.ownerLocked(s.machine); f != nil {
			c.armLocked(f)
		} else if len(st.flows) == 0 {
			delete(c.stations, s.machine)
		}
	}
	c.mu.Unlock()
	if !newest {
		return
	}
	c.observe(machine.Sighting{Time: c.cfg.Now(), Source: machine.SourceAgent, Machine: machine.Name(s.machine), Address: s.address, Event: "disconnected", Detail: "boot " + s.bootID})
	ctx, cancel := context.WithTimeout(ctx, detachTime)
	defer cancel()
	if err := c.disconnected(ctx, s.machine, s.since); err != nil && !errors.Is(err, store.ErrClosed) {
		c.cfg.Logger.Warn("agent's disconnection not recorded", "machine", s.machine, "err", err)
	}
}

// Fence ends the sessions of the machine's other boots than bootID, which has
// just enrolled.
func (c *Controller) Fence(name, bootID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.stations[name]; s != nil && s.session != nil && s.session.bootID != bootID {
		s.session.fence()
	}
}

func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Wake has an element when Next may have something to send.
func (s *Session) Wake() <-chan struct{} { return s.wake }

// Fenced is closed when another stream of the machine has taken over.
func (s *Session) Fenced() <-chan struct{} { return s.fenced }

// Superseded reports whether what has taken over is a newer boot: the agent
// must stop. Otherwise it is the same agent that has connected again.
func (s *Session) Superseded() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	st := s.c.stations[s.machine]
	return st == nil || st.session == nil || st.session == s || st.session.bootID != s.bootID
}

// Next returns what the agent has to be told now.
func (s *Session) Next(ctx context.Context) ([]*pb.ConnectResponse, error) {
	var out []*pb.ConnectResponse
	wf, err := s.arrive(ctx)
	if err != nil {
		return nil, err
	}
	if wf == nil || keyOf(wf) != s.has {
		if m := s.obsolete(); m != nil {
			out = append(out, m)
		}
	}
	if wf == nil {
		return out, nil
	}
	if keyOf(wf) != s.has {
		m, err := s.plan(ctx, wf)
		if err != nil || m == nil {
			return out, err
		}
		return append(out, m), nil
	}
	s.name = wf.GetMetadata().GetName()
	return append(out, s.news(wf)...), nil
}

// arrive returns the workflow that the agent is to carry out, or nil. If it
// waits for the machine, or knows it in another boot, it hears now that the
// machine is there.
func (s *Session) arrive(ctx context.Context) (*pb.Workflow, error) {
	f := s.c.owner(s.machine)
	if f == nil {
		return nil, nil
	}
	wf, err := s.c.change(ctx, f.name, func(t *tx) error {
		select {
		case <-s.fenced:
			return ErrFenced
		default:
			return t.arrive(s.bootID)
		}
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case ended(wf.GetStatus().GetState()):
		return nil, nil
	}
	return wf, nil
}

// current returns the workflow that the agent is to carry out, or nil.
func (s *Session) current() *pb.Workflow {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	f := s.c.ownerLocked(s.machine)
	if f == nil {
		return nil
	}
	switch f.wf.GetStatus().GetState() {
	case pb.WorkflowState_RUNNING, pb.WorkflowState_WAITING_FOR_APPROVAL:
		return f.wf
	default:
		return nil
	}
}

// obsolete tells the agent that the plan it has is over, unless it must know
// because it reported the end itself.
func (s *Session) obsolete() *pb.ConnectResponse {
	if s.has == (key{}) || s.cancelled {
		return nil
	}
	s.cancelled = true
	reason := "the workflow is over"
	s.c.mu.Lock()
	if f := s.c.flows[s.name]; f != nil && keyOf(f.wf) == s.has {
		if f.wf.GetStatus().GetState() == pb.WorkflowState_SUCCEEDED {
			s.c.mu.Unlock()
			return nil
		}
		reason = f.wf.GetStatus().GetCause()
	}
	s.c.mu.Unlock()
	return cancelMessage(s.has, reason)
}

func cancelMessage(k key, reason string) *pb.ConnectResponse {
	return &pb.ConnectResponse{Message: &pb.ConnectResponse_Cancel{Cancel: &pb.Cancel{WorkflowUid: k.uid, Run: k.run, Reason: reason}}}
}

// news are the decisions of people that the agent hasn't heard of.
func (s *Session) news(wf *pb.Workflow) []*pb.ConnectResponse {
	var out []*pb.ConnectResponse
	if wf.GetStatus().GetCancelRequested() && !s.cancelled {
		s.cancelled = true
		out = append(out, cancelMessage(s.has, wf.GetStatus().GetCause()))
	}
	for _, st := range wf.GetStatus().GetSteps() {
		decided := st.GetState() == pb.StepState_STEP_SUCCEEDED || st.GetState() == pb.StepState_STEP_FAILED
		if st.GetUses() != action.Approval || !decided || s.told[st.GetId()] {
			continue
		}
		s.told[st.GetId()] = true
		out = append(out, &pb.ConnectResponse{Message: &pb.ConnectResponse_Approval{Approval: &pb.Approval{
			WorkflowUid: s.has.uid, Run: s.has.run, Step: st.GetId(),
			Reject: st.GetState() == pb.StepState_STEP_FAILED, Actor: approver(st),
		}}})
	}
	return out
}

func approver(st *pb.StepStatus) string {
	if n := len(st.GetAttempts()); st.GetApprovedBy() == "" && n > 0 {
		return st.Attempts[n-1].GetError()
	}
	return st.GetApprovedBy()
}

// plan makes the message that gives the agent its plan. A plan that can't be
// made fails the workflow.
func (s *Session) plan(ctx context.Context, wf *pb.Workflow) (*pb.ConnectResponse, error) {
	p, err := s.c.delivery(ctx, wf)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	name := wf.GetMetadata().GetName()
	if err != nil {
		cause := fmt.Sprintf("its plan can't be made: %v", err)
		return nil, s.c.fail(ctx, name, cause)
	}
	s.has, s.name, s.cancelled, s.told = keyOf(wf), name, false, map[string]bool{}
	for _, st := range wf.GetStatus().GetSteps() {
		if st.GetUses() == action.Approval && st.GetState() != pb.StepState_STEP_PENDING && st.GetState() != pb.StepState_STEP_WAITING {
			s.told[st.GetId()] = true
		}
	}
	s.poke() // a person may have decided something since wf
	return &pb.ConnectResponse{Message: &pb.ConnectResponse_Plan{Plan: p}}, nil
}

// Acks returns, for an agent that comes back with a plan, what is on record.
func (s *Session) Acks() []*pb.Ack {
	wf := s.current()
	if wf == nil || keyOf(wf) != s.has || wf.GetStatus().GetDelivery().GetBootId() != s.bootID || wf.GetStatus().GetDelivery().GetSequence() == 0 {
		return nil
	}
	return []*pb.Ack{{WorkflowUid: s.has.uid, Run: s.has.run, Sequence: wf.GetStatus().GetDelivery().GetSequence()}}
}
