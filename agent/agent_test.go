package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func TestAgent_Run(t *testing.T) {
	t.Run("a plan runs to its end, in order", func(t *testing.T) {
		s := newFakeServer(makePlan(&pb.Step{Id: "a", Uses: "noop"}, &pb.Step{Id: "b", Uses: "noop"}, &pb.Step{Id: "c", Uses: "noop", If: "false"}))
		start(t, s, nil)
		want := []string{"a STEP_RUNNING", "a STEP_SUCCEEDED", "b STEP_RUNNING", "b STEP_SUCCEEDED", "c STEP_SKIPPED"}
		s.await(t, "c is skipped", func() bool { return s.has("c STEP_SKIPPED") })
		if diff := cmp.Diff(want, s.states()); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
		for i, ev := range s.events {
			if got, want := ev.GetSequence(), uint64(i+1); got != want {
				t.Errorf("event %d has sequence %d, want %d", i, got, want)
			}
		}
	})

	t.Run("inventory is reported at once and again when asked", func(t *testing.T) {
		s := newFakeServer(nil)
		start(t, s, nil)
		s.await(t, "the first report", func() bool { return len(s.reports) == 1 })
		s.push <- &pb.ConnectResponse{Message: &pb.ConnectResponse_CollectInventory{CollectInventory: &pb.CollectInventory{}}}
		s.await(t, "the second report", func() bool { return len(s.reports) == 2 })
	})

	t.Run("neighbours follow in a second report", func(t *testing.T) {
		s := newFakeServer(nil)
		start(t, s, func(c *Config) {
			c.Neighbours = func(_ context.Context, inv *pb.Inventory) (bool, error) {
				inv.Nics[0].Lldp = &pb.LLDPNeighbour{PortId: "ge-0/0/1"}
				return true, nil
			}
		})
		s.await(t, "the neighbour", func() bool {
			n := len(s.reports)
			return n > 0 && s.reports[n-1].GetNics()[0].GetLldp().GetPortId() == "ge-0/0/1"
		})
	})

	t.Run("the clock is set to the server's", func(t *testing.T) {
		s := newFakeServer(nil)
		s.stamp = time.Now().Add(10 * 365 * 24 * time.Hour)
		var set atomic.Int64
		start(t, s, func(c *Config) { c.SetClock = func(now time.Time) error { set.Store(now.Unix()); return nil } })
		s.await(t, "connected", func() bool { return len(s.hellos) > 0 })
		if got, want := set.Load(), s.stamp.Unix(); got != want {
			t.Errorf("clock set to %d, want %d", got, want)
		}
	})
}

func TestAgent_Delivery(t *testing.T) {
	three := func() *pb.Plan {
		return makePlan(&pb.Step{Id: "a", Uses: "noop"}, &pb.Step{Id: "b", Uses: "noop"}, &pb.Step{Id: "c", Uses: "noop"})
	}

	t.Run("events whose acknowledgement was lost are sent again and applied once", func(t *testing.T) {
		s := newFakeServer(three())
		s.mute = true
		start(t, s, nil)
		s.await(t, "c is done", func() bool { return s.has("c STEP_SUCCEEDED") })
		first := s.received
		s.set(func(s *fakeServer) { s.mute = false })
		s.push <- nil
		s.await(t, "all came again", func() bool { return s.received >= 2*first })
		if got, want := len(s.states()), 6; got != want {
			t.Errorf("%d changes applied, want %d: %v", got, want, s.states())
		}
	})

	t.Run("a stream that is cut again and again loses nothing", func(t *testing.T) {
		steps := []*pb.Step{}
		for i := range 10 {
			steps = append(steps, &pb.Step{Id: fmt.Sprintf("s%d", i), Uses: "noop"})
		}
		s := newFakeServer(makePlan(steps...))
		s.cut = 1
		start(t, s, func(c *Config) {
			c.Executors["noop"] = step.Func(func(_ context.Context, r step.Request, rep step.Reporter) (step.Result, error) {
				rep.Log(step.Stdout, "line of "+r.Step)
				if r.Step == "s3" || r.Step == "s6" {
					s.set(func(s *fakeServer) { s.cut = 1 })
				}
				return step.Result{}, nil
			})
		})
		s.await(t, "the last is done", func() bool { return s.has("s9 STEP_SUCCEEDED") })
		var logs int
		for i, ev := range s.events {
			if ev.GetSequence() != uint64(i+1) {
				t.Fatalf("event %d has sequence %d", i, ev.GetSequence())
			}
			if ev.GetLog() != nil {
				logs++
			}
		}
		if len(s.states()) != 20 || logs != 10 {
			t.Errorf("%d changes and %d lines, want 20 and 10", len(s.states()), logs)
		}
	})

	t.Run("a plan that comes again is not run again", func(t *testing.T) {
		var runs atomic.Int32
		s := newFakeServer(three())
		start(t, s, func(c *Config) {
			c.Executors["noop"] = step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
				runs.Add(1)
				return step.Result{}, nil
			})
		})
		s.await(t, "done", func() bool { return s.has("c STEP_SUCCEEDED") })
		s.push <- &pb.ConnectResponse{Message: &pb.ConnectResponse_Plan{Plan: s.plan}}
		s.push <- nil // and once more with the next stream
		s.await(t, "connected again", func() bool { return len(s.hellos) == 2 })
		next := makePlan(&pb.Step{Id: "z", Uses: "noop"})
		next.Run = 2
		s.set(func(s *fakeServer) { s.applied = 0 })
		s.push <- &pb.ConnectResponse{Message: &pb.ConnectResponse_Plan{Plan: next}}
		s.await(t, "the next run is done", func() bool { return s.has("z STEP_SUCCEEDED") })
		if got := runs.Load(); got != 4 {
			t.Errorf("%d steps run, want 4", got)
		}
		if got := s.hellos[1]; got.GetWorkflowUid() != "u1" || got.GetRun() != 1 {
			t.Errorf("the second hello names %q run %d", got.GetWorkflowUid(), got.GetRun())
		}
	})

	t.Run("an action that must not run twice starts only when that is on record", func(t *testing.T) {
		started := make(chan struct{})
		s := newFakeServer(makePlan(&pb.Step{Id: "x", Uses: "command", With: values("command", []any{"true"})}))
		s.mute = true
		start(t, s, func(c *Config) {
			c.Executors["command"] = step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
				close(started)
				return step.Result{}, nil
			})
		})
		s.await(t, "it is announced", func() bool { return s.has("x STEP_RUNNING") })
		select {
		case <-started:
			t.Fatal("it started before the acknowledgement")
		default:
		}
		s.set(func(s *fakeServer) { s.mute = false })
		s.push <- nil
		s.await(t, "it is done", func() bool { return s.has("x STEP_SUCCEEDED") })
		<-started
	})

	t.Run("a new run replaces one that is at work", func(t *testing.T) {
		stopped := make(chan error, 1)
		s := newFakeServer(makePlan(&pb.Step{Id: "long", Uses: "noop"}))
		start(t, s, func(c *Config) {
			c.Executors["noop"] = step.Func(func(ctx context.Context, r step.Request, _ step.Reporter) (step.Result, error) {
				if r.Step == "long" {
					<-ctx.Done()
					stopped <- context.Cause(ctx)
				}
				return step.Result{}, nil
			})
		})
		s.await(t, "it runs", func() bool { return s.has("long STEP_RUNNING") })
		next := makePlan(&pb.Step{Id: "short", Uses: "noop"})
		next.Run = 2
		s.set(func(s *fakeServer) { s.applied = 0 })
		s.push <- &pb.ConnectResponse{Message: &pb.ConnectResponse_Plan{Plan: next}}
		s.await(t, "the new one is done", func() bool { return s.has("short STEP_SUCCEEDED") })
		if err := <-stopped; !errors.Is(err, errReplaced) {
			t.Errorf("the old one was stopped by %v", err)
		}
	})
}

func TestAgent_Leave(t *testing.T) {
	leave := func(left chan string, err error) func(*Config) {
		return func(c *Config) {
			c.Executors["machine.reboot"] = step.Func(func(_ context.Context, r step.Request, rep step.Reporter) (step.Result, error) {
				rep.Log(step.Agent, "going")
				next, _ := r.With["boot"].(string)
				return step.Result{Leave: &step.Leave{NextBoot: next, Do: func() error { left <- next; return err }}}, nil
			})
		}
	}
	plan := makePlan(&pb.Step{Id: "again", Uses: "machine.reboot", With: values("boot", "agent")}, &pb.Step{Id: "after", Uses: "noop"})

	t.Run("the machine leaves only once the server knows", func(t *testing.T) {
		left := make(chan string, 1)
		s := newFakeServer(plan)
		s.mute = true
		start(t, s, leave(left, nil))
		s.await(t, "leaving is announced", func() bool { return s.has("again STEP_RUNNING leaving agent") })
		select {
		case <-left:
			t.Fatal("it left before the acknowledgement")
		default:
		}
		s.set(func(s *fakeServer) { s.mute = false })
		s.push <- nil
		if got := <-left; got != "agent" {
			t.Errorf("left for %q", got)
		}
		if s.has("after STEP_RUNNING") {
			t.Error("another step was started while leaving")
		}
	})

	t.Run("after the reboot the next step follows", func(t *testing.T) {
		left := make(chan string, 1)
		s := newFakeServer(plan)
		r := start(t, s, leave(left, nil))
		<-left
		r.stop()
		// What the server makes of it, by the record.
		again := proto.Clone(plan).(*pb.Plan)
		again.Steps = []*pb.StepStatus{
			{Id: "again", Uses: "machine.reboot", State: pb.StepState_STEP_RUNNING, Attempts: []*pb.StepAttempt{{Number: 1, State: pb.StepState_STEP_RUNNING, BootId: "0123456789abcdef", Run: 1, Leaving: "agent"}}},
			{Id: "after", Uses: "noop", State: pb.StepState_STEP_PENDING},
		}
		s2 := newFakeServer(again)
		start(t, s2, func(c *Config) { c.BootID = "fedcba9876543210" })
		s2.await(t, "after is done", func() bool { return s2.has("after STEP_SUCCEEDED") })
		if diff := cmp.Diff([]string{"after STEP_RUNNING", "after STEP_SUCCEEDED"}, s2.states()); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
	})

	t.Run("a machine that can't leave says so", func(t *testing.T) {
		left := make(chan string, 1)
		s := newFakeServer(makePlan(&pb.Step{Id: "again", Uses: "machine.reboot", With: values("boot", "disk")}))
		start(t, s, leave(left, errors.New("operation not permitted")))
		s.await(t, "it has failed", func() bool { return s.has("again STEP_FAILED") })
		if got := s.events[len(s.events)-1].GetChange().GetError(); got != "operation not permitted" {
			t.Errorf("error %q", got)
		}
	})

	t.Run("steps beside it end first", func(t *testing.T) {
		left, release := make(chan string, 1), make(chan struct{})
		s := newFakeServer(makePlan(
			&pb.Step{Id: "first", Uses: "noop"},
			&pb.Step{Id: "beside", Uses: "noop", Needs: []string{"first"}},
			&pb.Step{Id: "go", Uses: "machine.reboot", With: values("boot", "disk"), Needs: []string{"first"}},
		))
		start(t, s, func(c *Config) {
			leave(left, nil)(c)
			c.Executors["noop"] = step.Func(func(_ context.Context, r step.Request, _ step.Reporter) (step.Result, error) {
				if r.Step == "beside" {
					<-release
				}
				return step.Result{}, nil
			})
		})
		s.await(t, "both run", func() bool { return s.has("go STEP_RUNNING") && s.has("beside STEP_RUNNING") })
		close(release)
		<-left
		want := []string{"beside STEP_SUCCEEDED", "go STEP_RUNNING leaving disk"}
		if got := s.states(); len(got) < 2 || cmp.Diff(want, got[len(got)-2:]) != "" {
			t.Errorf("the last changes are %v, want %v", got, want)
		}
	})
}

func TestAgent_Stop(t *testing.T) {
	t.Run("fenced: everything stops", func(t *testing.T) {
		stopped := make(chan struct{})
		s := newFakeServer(makePlan(&pb.Step{Id: "long", Uses: "noop"}))
		r := start(t, s, func(c *Config) {
			c.Executors["noop"] = step.Func(func(ctx context.Context, _ step.Request, _ step.Reporter) (step.Result, error) {
				<-ctx.Done()
				close(stopped)
				return step.Result{}, ctx.Err()
			})
		})
		s.await(t, "it runs", func() bool { return s.has("long STEP_RUNNING") })
		s.set(func(s *fakeServer) { s.connErr = status.Error(codes.Aborted, "boot fedc is newer") })
		s.push <- nil
		<-r.ended
		<-stopped
		if !errors.Is(r.err, ErrFenced) || !strings.Contains(r.err.Error(), "boot fedc is newer") {
			t.Errorf("Run returned %v", r.err)
		}
	})

	t.Run("a token that the server refuses ends the boot", func(t *testing.T) {
		s := newFakeServer(nil)
		s.enrolErr = status.Error(codes.Unauthenticated, "token expired at 12:00")
		r := start(t, s, nil)
		<-r.ended
		if !errors.Is(r.err, ErrToken) || !strings.Contains(r.err.Error(), "token expired at 12:00") {
			t.Errorf("Run returned %v", r.err)
		}
	})

	t.Run("a server that isn't there yet is tried again", func(t *testing.T) {
		s := newFakeServer(nil)
		s.enrolErr = status.Error(codes.Unavailable, "starting")
		start(t, s, nil)
		s.await(t, "tried twice", func() bool { return s.enrols == 2 })
		s.set(func(s *fakeServer) { s.enrolErr = nil })
		s.await(t, "connected", func() bool { return len(s.hellos) > 0 })
	})

	t.Run("a certificate that the server refuses ends the boot once the workflow is over", func(t *testing.T) {
		release := make(chan struct{})
		s := newFakeServer(makePlan(&pb.Step{Id: "long", Uses: "noop"}))
		r := start(t, s, func(c *Config) {
			c.Executors["noop"] = step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
				<-release
				return step.Result{}, nil
			})
		})
		s.await(t, "it runs", func() bool { return s.has("long STEP_RUNNING") })
		s.set(func(s *fakeServer) { s.connErr = status.Error(codes.Unauthenticated, "certificate expired") })
		s.push <- nil
		s.await(t, "refused", func() bool { return len(s.hellos) == 2 })
		select {
		case <-r.ended:
			t.Fatal("it gave up while a step was running")
		default:
		}
		close(release)
		<-r.ended
		if !errors.Is(r.err, ErrIdentity) {
			t.Errorf("Run returned %v", r.err)
		}
	})
}

func TestAgent_Orders(t *testing.T) {
	t.Run("cancel stops what runs and what would come", func(t *testing.T) {
		s := newFakeServer(makePlan(&pb.Step{Id: "long", Uses: "noop"}, &pb.Step{Id: "next", Uses: "noop"}))
		start(t, s, func(c *Config) {
			c.Executors["noop"] = step.Func(func(ctx context.Context, _ step.Request, _ step.Reporter) (step.Result, error) {
				<-ctx.Done()
				return step.Result{}, ctx.Err()
			})
		})
		s.await(t, "it runs", func() bool { return s.has("long STEP_RUNNING") })
		s.push <- &pb.ConnectResponse{Message: &pb.ConnectResponse_Cancel{Cancel: &pb.Cancel{WorkflowUid: "u1", Run: 1, Reason: "asked by ann"}}}
		s.await(t, "it is cancelled", func() bool { return s.has("long STEP_CANCELLED") })
		if s.has("next STEP_RUNNING") {
			t.Error("the next step was started")
		}
	})

	approval := makePlan(&pb.Step{Id: "ask", Uses: "approval", With: values("message", "really?")}, &pb.Step{Id: "next", Uses: "noop"})
	t.Run("a step waits for a person", func(t *testing.T) {
		s := newFakeServer(approval)
		start(t, s, nil)
		s.await(t, "it waits", func() bool { return s.has("ask STEP_WAITING") })
		if got := s.events[0].GetChange().GetLastOutput(); cmp.Diff([]string{"really?"}, got) != "" {
			t.Errorf("the question is %q", got)
		}
		s.push <- &pb.ConnectResponse{Message: &pb.ConnectResponse_Approval{Approval: &pb.Approval{WorkflowUid: "u1", Run: 1, Step: "ask", Actor: "ann"}}}
		s.await(t, "the next is done", func() bool { return s.has("next STEP_SUCCEEDED") })
	})

	t.Run("an approval given while the stream was cut comes with the plan", func(t *testing.T) {
		s := newFakeServer(approval)
		start(t, s, nil)
		s.await(t, "it waits", func() bool { return s.has("ask STEP_WAITING") })
		again := proto.Clone(approval).(*pb.Plan)
		again.Steps = []*pb.StepStatus{{Id: "ask", State: pb.StepState_STEP_SUCCEEDED, ApprovedBy: "ann"}, {Id: "next", State: pb.StepState_STEP_PENDING}}
		s.set(func(s *fakeServer) { s.plan = again })
		s.push <- nil
		s.await(t, "the next is done", func() bool { return s.has("next STEP_SUCCEEDED") })
	})
}
