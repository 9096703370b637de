package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// ErrNotFailed means that there is nothing to take up again: the machine's
// life goes on, or an instance's workflow is what failed.
var ErrNotFailed = errors.New("nothing of its life has failed")

// retryAttempts bounds how often a retry is decided again because somebody
// else was faster.
const retryAttempts = 64

// Retry takes up again what a machine's life stopped at: attempts are counted
// anew, a login that the BMC has refused is tried once more, hooks that said no are asked again, hardware that was not as expected
// is read and tested again. ops, such as the event that says who asked, are
// written with it.
func (c *Controller) Retry(ctx context.Context, name string, ops ...store.Op) (*pb.Machine, error) {
	for range retryAttempts {
		m, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, name)
		if err != nil {
			return nil, err
		}
		next := cloneOf(m)
		if err := retried(next); err != nil {
			return nil, err
		}
		resource.Stamp(c.cfg.DB, next)
		err = c.commit(ctx, unchanged(m), append(slices.Clone(ops), resource.Put(next))...)
		if !errors.Is(err, store.ErrConflict) {
			return next, err
		}
	}
	return nil, fmt.Errorf("retrying machine %s: %w", name, store.ErrConflict)
}

// retried changes m to what it is when its life goes on.
func retried(m *pb.Machine) error {
	name, s := m.Metadata.Name, m.GetStatus()
	refused := slices.ContainsFunc(s.GetHooks(), func(h *pb.HookStatus) bool { return h.GetState() == hookFailed })
	switch {
	case refused:
		s.Hooks = nil
		return nil
	case s.GetState() == pb.MachineState_FAILED && s.GetInstance() != "":
		return fmt.Errorf("machine %s is held by instance %s, which is what failed: %s: %w", name, s.GetInstance(), s.GetNextAction(), ErrNotFailed)
	case s.GetState() != pb.MachineState_FAILED && s.GetState() != pb.MachineState_QUARANTINED && s.GetAttempt() <= 1:
		return fmt.Errorf("machine %s is %s: %w", name, stateName(s.GetState()), ErrNotFailed)
	}
	s.Attempt, s.Job, s.LifeWorkflow = 0, "", ""
	if s.GetBmc() != nil {
		s.Bmc.RefusedLogin = nil
	}
	if m.GetMetadata().GetAnnotations()[AnnotationDiscovered] == "" && !m.GetSpec().GetRetired() {
		retryReady(s)
	}
	return nil
}

func unchanged(m *pb.Machine) []store.Compare { return []store.Compare{resource.Unchanged(m)} }

// retryReady has the hardware read again where it was not as expected, and
// tested again where it did not pass.
func retryReady(s *pb.MachineStatus) {
	if s.GetState() != pb.MachineState_FAILED {
		return
	}
	s.TestTime, s.Tests = nil, nil
	if len(s.GetDifferences()) > 0 {
		s.Inventory, s.Differences = nil, nil
	}
}
