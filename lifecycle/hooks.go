package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// What hooks are asked about.
const (
	beforeRelease     = "release"
	beforeReinstall   = "reinstall"
	beforeRescue      = "rescue"
	beforeMaintenance = "maintenance"
	beforeRetire      = "retire"
)

// States of a hook.
const (
	hookPending = "pending"
	hookDone    = "done"
	hookFailed  = "failed"
)

const (
	hookTimeout = 10 * time.Minute
	// hookRetry is the wait before a hook that asked for time is called again.
	hookRetry = 10 * time.Second
	// hookCall bounds one call.
	hookCall = 30 * time.Second
	// maxHookCalls bounds the calls under way.
	maxHookCalls = 32
)

// Hooks calls the programs that a pool wants asked. Called again after a crash,
// it may ask twice: what they do has to be safe to do again.
type Hooks interface {
	// Call asks once. again means that the answer was "not yet".
	Call(ctx context.Context, h *pb.Hook, m *pb.Machine, before string) (again bool, message string, err error)
}

// hooksBefore returns the pool's hooks for one kind of change, in order.
func hooksBefore(pool *pb.PoolSpec, before string) []*pb.Hook {
	var out []*pb.Hook
	for _, h := range pool.GetHooks() {
		if len(h.GetBefore()) == 0 || slices.Contains(h.GetBefore(), before) {
			out = append(out, h)
		}
	}
	return out
}

// consent reports whether every hook has let the change go on. Until then d
// says what is waited for, and has the hooks put on record.
func (v view) consent(m *pb.Machine, d *decision, before string) bool {
	hooks := hooksBefore(v.pool, before)
	if len(hooks) == 0 {
		return true
	}
	d.asked = true
	seen := m.GetStatus().GetHooks()
	if !sameHooks(seen, hooks, before) {
		d.cause = fmt.Sprintf("hook %s is asked before %s", hooks[0].Name, before)
		d.nextAction = "the hook lets it go on with 2xx"
		d.edit = also(d.edit, func(m *pb.Machine) { m.Status.Hooks = freshHooks(hooks, before, v.now) })
		return false
	}
	for i, h := range seen {
		switch {
		case h.State == hookDone, h.State == hookFailed && hooks[i].GetOnFailure() == "continue":
		case h.State == hookFailed:
			d.cause = fmt.Sprintf("hook %s did not consent to %s: %s", h.Name, before, h.Message)
			d.nextAction = "put right what it says, then `bedplate machine retry " + m.Metadata.Name + "`"
			return false
		default:
			d.cause = fmt.Sprintf("hook %s is asked before %s", h.Name, before)
			if h.Message != "" {
				d.cause += ": " + h.Message
			}
			d.nextAction, d.deadline = "the hook lets it go on with 2xx", moment(h.Deadline)
			return false
		}
	}
	return true
}

// also chains two edits.
func also(first, then func(*pb.Machine)) func(*pb.Machine) {
	if first == nil {
		return then
	}
	return func(m *pb.Machine) { first(m); then(m) }
}

func sameHooks(seen []*pb.HookStatus, hooks []*pb.Hook, before string) bool {
	return slices.EqualFunc(seen, hooks, func(s *pb.HookStatus, h *pb.Hook) bool { return s.Name == h.Name && s.Before == before })
}

func freshHooks(hooks []*pb.Hook, before string, now time.Time) []*pb.HookStatus {
	out := make([]*pb.HookStatus, len(hooks))
	for i, h := range hooks {
		out[i] = &pb.HookStatus{
			Name: h.Name, Before: before, State: hookPending, Time: timestamppb.New(now),
			Deadline: timestamppb.New(now.Add(durationOr(h.GetTimeout(), hookTimeout))),
		}
	}
	return out
}

// hookDue returns the hook to call now, or when to look again.
func hookDue(m *pb.Machine, now time.Time) (i int, wait time.Duration, due bool) {
	for i, h := range m.GetStatus().GetHooks() {
		switch h.GetState() {
		case hookDone, hookFailed:
			continue
		}
		if h.GetAttempts() == 0 {
			return i, 0, true
		}
		wait := h.GetTime().AsTime().Add(hookRetry).Sub(now)
		return i, wait, wait <= 0
	}
	return 0, 0, false
}

// callHooks calls the machine's next hook, if one is due and none is under way.
func (c *Controller) callHooks(ctx context.Context, m *pb.Machine) {
	name := m.GetMetadata().GetName()
	i, wait, due := hookDue(m, c.cfg.Now())
	if wait > 0 {
		c.lookAgain("m "+name, c.cfg.Now().Add(wait))
	}
	if !due || c.cfg.Hooks == nil || c.calling[name] || len(c.calling) >= maxHookCalls {
		if due && !c.calling[name] {
			c.lookAgain("m "+name, c.cfg.Now().Add(hookRetry))
		}
		return
	}
	asked := m.Status.Hooks[i]
	hooks := hooksBefore(c.poolOf(m), asked.Before)
	if i >= len(hooks) || hooks[i].Name != asked.Name {
		return // The pool has changed: the next decision begins anew.
	}
	c.calling[name] = true
	c.calls.Go(func() {
		call, cancel := context.WithTimeout(ctx, hookCall)
		defer cancel()
		again, message, err := c.cfg.Hooks.Call(call, hooks[i], m, asked.Before)
		if ctx.Err() != nil {
			return
		}
		next := c.answered(ctx, name, asked, again, message, err)
		c.send(ctx, func(dirty map[string]bool) {
			delete(c.calling, name)
			if next != nil {
				c.setMachine(next, dirty)
			}
			dirty["m "+name] = true
		})
	})
}

// answered puts a hook's answer on record, and returns the machine with it.
func (c *Controller) answered(ctx context.Context, name string, asked *pb.HookStatus, again bool, message string, failure error) *pb.Machine {
	now := c.cfg.Now()
	next, err := resource.Update(ctx, c.cfg.DB, name, func(m *pb.Machine) error {
		for _, h := range m.GetStatus().GetHooks() {
			if h.Name != asked.Name || h.Before != asked.Before || h.State != hookPending {
				continue
			}
			h.Attempts++
			h.Time, h.Message = timestamppb.New(now), message
			switch late := !now.Before(h.GetDeadline().AsTime()); {
			case failure == nil && !again:
				h.State = hookDone
			case late:
				h.State = hookFailed
				h.Message = fmt.Sprintf("no consent within its time after %d calls: %s", h.Attempts, orText(message, errText(failure)))
			case failure != nil && !again:
				h.State, h.Message = hookFailed, failure.Error()
			}
			return nil
		}
		return resource.ErrUnchanged
	})
	if err != nil && ctx.Err() == nil {
		c.cfg.Logger.Error("recording a hook's answer", "machine", name, "err", err)
	}
	if err != nil {
		return nil
	}
	return next
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func orText(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// durationOr reads a duration that was checked when it was applied.
func durationOr(text string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return d
	}
	return otherwise
}
