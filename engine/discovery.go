package engine

import (
	"context"

	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/expression"
)

// ruleChecker checks a discovery rule's expressions when it is applied.
type ruleChecker struct{}

// CheckRule implements api.RuleChecker.
func (ruleChecker) CheckRule(spec *pb.RuleSpec) error { return fieldErrors(expression.CheckRule(spec)) }

// forgetTimeline drops the timeline of a machine that has gone, or hands it on
// to the name that the machine has now.
func (e *Engine) forgetTimeline(ctx context.Context, name machine.Name) error {
	now, renamed, err := discovery.Renamed(ctx, e.db, name)
	if err != nil {
		return err
	}
	if renamed {
		e.timeline.Rename(name, now)
	}
	return e.timeline.Forget(ctx, name)
}

// keepHistory forgets the history of machines that are gone.
func (e *Engine) keepHistory(ctx context.Context) error { return e.history.Run(ctx, e.log) }
