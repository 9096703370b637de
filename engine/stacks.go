package engine

import (
	"context"
	"path/filepath"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/expression"
)

// buildStacks builds what puts stacks on clusters.
func (e *Engine) buildStacks(context.Context) (err error) {
	e.stacks, err = stack.New(stack.Config{
		DB: e.db, Dir: filepath.Join(e.cfg.DataDir, "stacks"), Secrets: secrets{e.db, e.sealer}, Sealer: e.sealer, Machines: e.machineFacts,
		Event: func(name, reason, message string, warning bool) store.Op {
			return e.events.Op(event.Entry{Kind: "Stack", Name: name, Reason: reason, Message: message, Warning: warning})
		},
		Now: e.cfg.Now, Logger: e.log,
	})
	return err
}

// machineFacts describes all machines as expressions see them.
func (e *Engine) machineFacts(ctx context.Context) ([]any, error) {
	all, _, err := resource.All[*pb.Machine](ctx, e.db)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, m := range all {
		facts, err := expression.MachineFacts(m)
		if err != nil {
			return nil, err
		}
		out = append(out, facts.AsMap())
	}
	return out, nil
}
