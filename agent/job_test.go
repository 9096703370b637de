package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func values(kv ...any) map[string]*structpb.Value {
	m := map[string]*structpb.Value{}
	for i := 0; i < len(kv); i += 2 {
		v, err := structpb.NewValue(kv[i+1])
		if err != nil {
			panic(err)
		}
		m[kv[i].(string)] = v
	}
	return m
}

// runJob runs a plan alone, in a bubble, and returns the changes and lines
// that it would have sent.
func runJob(t *testing.T, p *pb.Plan, set step.Set) (changes []*pb.StepChange, lines []*pb.LogLine) {
	t.Helper()
	o := newOutbox(time.Now)
	o.reset(p.GetWorkflowUid(), p.GetRun())
	cfg := Config{Executors: set, BootID: "0123456789abcdef", Now: time.Now, Say: t.Logf, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	j := newJob(t.Context(), cfg, o, p)
	go j.run()
	for {
		synctest.Wait()
		for b, _ := o.batch(); b != nil; b, _ = o.batch() {
			for _, ev := range b.GetEvents() {
				if c := ev.GetChange(); c != nil {
					changes = append(changes, c)
				} else {
					lines = append(lines, ev.GetLog())
				}
				o.ack(&pb.Ack{WorkflowUid: p.GetWorkflowUid(), Run: p.GetRun(), Sequence: ev.GetSequence()})
			}
		}
		select {
		case <-j.done:
			if len(o.flushedNow()) == 0 {
				return changes, lines
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// flushedNow returns what waits.
func (o *outbox) flushedNow() []*pb.StepEvent {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append(append([]*pb.StepEvent(nil), o.sent...), o.queue...)
}

func TestJob_Retry(t *testing.T) {
	t.Run("a failed step is tried again after its backoff, doubled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var at []time.Duration
			begun := time.Now()
			p := makePlan(&pb.Step{Id: "a", Uses: "noop", Retries: &pb.Retries{Max: 3, Backoff: "10s"}})
			changes, _ := runJob(t, p, step.Set{"noop": step.Func(func(_ context.Context, r step.Request, rep step.Reporter) (step.Result, error) {
				at = append(at, time.Since(begun).Round(time.Second))
				rep.Log(step.Stderr, fmt.Sprintf("no luck in attempt %d", r.Attempt))
				if r.Attempt == 4 {
					return step.Result{Outputs: map[string]any{"ok": true}}, nil
				}
				return step.Result{}, errors.New("bad luck")
			})})
			if diff := cmp.Diff([]time.Duration{0, 10 * time.Second, 30 * time.Second, 70 * time.Second}, at); diff != "" {
				t.Errorf("attempts at (-want +got):\n%s", diff)
			}
			if got := changes[1]; got.GetState() != pb.StepState_STEP_BACKOFF || got.GetError() != "bad luck" || cmp.Diff([]string{"no luck in attempt 1"}, got.GetLastOutput()) != "" {
				t.Errorf("the first failure is %v", got)
			}
			if got := changes[len(changes)-1]; got.GetState() != pb.StepState_STEP_SUCCEEDED || got.GetAttempt() != 4 {
				t.Errorf("the last change is %v", got)
			}
		})
	})

	t.Run("failure for good runs on_failure with what is known of it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := makePlan(&pb.Step{Id: "a", Uses: "command", With: values("command", []any{"false"})}, &pb.Step{Id: "b", Uses: "noop"})
			p.Template.OnFailure = []*pb.Step{{Id: "tell", Uses: "command", With: values("command", []any{"echo", "${{ failure.step }}: ${{ failure.error }}"})}}
			code := int32(3)
			var told []any
			changes, _ := runJob(t, p, step.Set{
				"noop": step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) { return step.Result{}, nil }),
				"command": step.Func(func(_ context.Context, r step.Request, _ step.Reporter) (step.Result, error) {
					if r.Step == "tell" {
						told = r.With["command"].([]any)
						return step.Result{}, nil
					}
					return step.Result{ExitCode: &code}, errors.New("exit code 3")
				}),
			})
			if diff := cmp.Diff([]any{"echo", "a: exit code 3"}, told); diff != "" {
				t.Errorf("on_failure's input (-want +got):\n%s", diff)
			}
			if got := changes[1]; got.GetState() != pb.StepState_STEP_FAILED || got.GetExitCode() != 3 {
				t.Errorf("the failure is %v", got)
			}
			for _, c := range changes {
				if c.GetStep() == "b" {
					t.Errorf("b was touched: %v", c)
				}
			}
		})
	})
}

func TestJob_Limits(t *testing.T) {
	t.Run("a step that takes too long is stopped and fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := makePlan(&pb.Step{Id: "a", Uses: "noop", Timeout: "20m"})
			begun := time.Now()
			changes, _ := runJob(t, p, step.Set{"noop": step.Func(func(ctx context.Context, _ step.Request, _ step.Reporter) (step.Result, error) {
				<-ctx.Done()
				return step.Result{}, errors.New("write interrupted")
			})})
			got := changes[1]
			if got.GetState() != pb.StepState_STEP_FAILED || got.GetError() != "timed out after 20m0s (write interrupted)" {
				t.Errorf("the change is %v", got)
			}
			if d := time.Since(begun).Round(time.Minute); d != 20*time.Minute {
				t.Errorf("it took %s", d)
			}
		})
	})

	t.Run("a step that does not stop when told is reported, not waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			defer close(release)
			p := makePlan(&pb.Step{Id: "a", Uses: "noop", Timeout: "1m", Retries: &pb.Retries{Max: 5}})
			changes, _ := runJob(t, p, step.Set{"noop": step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
				<-release
				return step.Result{}, nil
			})})
			if got := changes[1]; got.GetState() != pb.StepState_STEP_FAILED || !strings.Contains(got.GetError(), "stuck in the kernel") {
				t.Errorf("the change is %v", got)
			}
		})
	})

	t.Run("the workflow's deadline ends everything", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := makePlan(&pb.Step{Id: "a", Uses: "noop"}, &pb.Step{Id: "b", Uses: "noop"})
			p.Deadline = timestamppb.New(time.Now().Add(30 * time.Second))
			changes, _ := runJob(t, p, step.Set{"noop": step.Func(func(ctx context.Context, _ step.Request, _ step.Reporter) (step.Result, error) {
				<-ctx.Done()
				return step.Result{}, ctx.Err()
			})})
			if n := len(changes); n != 2 || changes[1].GetState() != pb.StepState_STEP_FAILED || !strings.Contains(changes[1].GetError(), "the workflow's time is over") {
				t.Errorf("changes: %v", changes)
			}
		})
	})

	t.Run("a panic is a failure of the step", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			changes, lines := runJob(t, makePlan(&pb.Step{Id: "a", Uses: "noop"}), step.Set{"noop": step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
				var m map[string]int
				m["x"] = 1 //lint:ignore SA5000 the crash is what is tested
				return step.Result{}, nil
			})})
			if got := changes[1].GetError(); !strings.HasPrefix(got, "the action crashed: assignment to entry in nil map") {
				t.Errorf("error %q", got)
			}
			if len(lines) == 0 || !strings.Contains(lines[0].GetText(), "goroutine") {
				t.Errorf("no stack in the log: %v", lines)
			}
		})
	})
}

func TestJob_Secrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := makePlan(
			&pb.Step{Id: "a", Uses: "command", With: values("command", []any{"login", "${{ secrets.bmc.password }}"})},
			&pb.Step{Id: "b", Uses: "command", With: values("command", []any{"${{ steps.a.outputs.stdout }}"})},
		)
		p.Secrets = map[string]*pb.SecretValues{"bmc": {Data: map[string]string{"password": "hunter22", "key": "first line\nsecond line\n", "pin": "123"}}}
		var got []any
		changes, lines := runJob(t, p, step.Set{"command": step.Func(func(_ context.Context, r step.Request, rep step.Reporter) (step.Result, error) {
			if r.Step == "b" {
				return step.Result{}, errors.New("second line refused, pin 123")
			}
			got = r.With["command"].([]any)
			rep.Log(step.Stdout, "password hunter22, second line")
			return step.Result{Outputs: map[string]any{"stdout": "hunter22\n", "exit_code": 0}}, nil
		})})
		if diff := cmp.Diff([]any{"login", "hunter22"}, got); diff != "" {
			t.Errorf("the action's input (-want +got):\n%s", diff)
		}
		if got, want := lines[0].GetText(), "password ***, ***"; got != want {
			t.Errorf("log line %q, want %q", got, want)
		}
		if got, want := changes[1].GetOutputs()["stdout"].GetStringValue(), "***\n"; got != want {
			t.Errorf("output %q, want %q", got, want)
		}
		if got, want := changes[3].GetError(), "*** refused, pin 123"; got != want {
			t.Errorf("error %q, want %q", got, want)
		}
	})
}

func TestJob_Refuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := makePlan(&pb.Step{Id: "a", Uses: "teleport"})
		p.Steps = []*pb.StepStatus{{Id: "a", State: pb.StepState_STEP_PENDING}}
		changes, _ := runJob(t, p, step.Set{})
		if len(changes) != 1 || changes[0].GetState() != pb.StepState_STEP_FAILED || !strings.Contains(changes[0].GetError(), `no action "teleport"`) {
			t.Errorf("changes: %v", changes)
		}
	})
}

func TestOutbox_Bounds(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	o := newOutbox(func() time.Time { return now })
	o.reset("u1", 1)
	o.change(&pb.StepChange{Step: "a"})
	text := strings.Repeat("x", 1000)
	for i := range 20_000 {
		o.log(&pb.LogLine{Step: "a", Text: fmt.Sprintf("%05d %s", i, text)})
	}
	o.change(&pb.StepChange{Step: "b"})
	if o.logBytes > logLimit {
		t.Errorf("%d bytes wait", o.logBytes)
	}
	var changes, logs int
	var dropped, last string
	var sequence uint64
	for {
		b, _ := o.batch()
		if b == nil {
			break
		}
		for _, ev := range b.GetEvents() {
			sequence++
			if ev.GetSequence() != sequence {
				t.Fatalf("sequence %d, want %d", ev.GetSequence(), sequence)
			}
			switch l := ev.GetLog(); {
			case l == nil:
				changes++
			case strings.Contains(l.GetText(), "lines dropped"):
				dropped = l.GetText()
			default:
				logs, last = logs+1, l.GetText()
			}
		}
		if o.flight > flightLimit+2*batchBytes {
			t.Fatalf("%d bytes in flight", o.flight)
		}
		o.ack(&pb.Ack{WorkflowUid: "u1", Run: 1, Sequence: sequence})
	}
	if changes != 2 || !strings.HasPrefix(last, "19999 ") {
		t.Errorf("%d changes, last line %.10q", changes, last)
	}
	if want := fmt.Sprintf("[%d lines dropped", 20_000-logs); !strings.HasPrefix(dropped, want) {
		t.Errorf("%q, want %q...", dropped, want)
	}
	select {
	case <-o.flushed():
	default:
		t.Error("not flushed")
	}
	if o.flight != 0 || o.logBytes != 0 {
		t.Errorf("%d in flight, %d waiting at the end", o.flight, o.logBytes)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{jitter: func() float64 { return 0.999 }}
	var got []time.Duration
	for range 9 {
		got = append(got, b.next().Round(10*time.Millisecond))
	}
	want := []time.Duration{250, 500, 1000, 2000, 4000, 8000, 14990, 14990, 14990}
	for i := range want {
		want[i] *= time.Millisecond
		if d := got[i] - want[i]; d.Abs() > 10*time.Millisecond {
			t.Errorf("wait %d is %s, want about %s", i, got[i], want[i])
		}
	}
	b.reset()
	if got := b.next(); got > 250*time.Millisecond {
		t.Errorf("after a reset it waits %s", got)
	}
}
