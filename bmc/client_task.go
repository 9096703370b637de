package bmc

import (
	"context"
	"errors"
	"fmt"
)

// WaitTask asks for the task until it has ended, at most for Wait.Task, and
// calls progress, unless it is nil, after each answer. A BMC that is away for a
// while (it restarts at the end of its own update) is waited for. The error is
// ErrNotFound where the BMC has forgotten the task: whether it was done, the
// firmware's version says.
func (c *Client) WaitTask(ctx context.Context, id TaskID, progress func(Task)) (Task, error) {
	last := Task{ID: id, State: TaskRunning, Percent: -1}
	ended, err := c.poll(ctx, c.wait.Task, func() (bool, error) {
		task, err := c.Task(ctx, id)
		if err != nil {
			return false, err
		}
		last = task
		if progress != nil {
			progress(task)
		}
		return task.State != TaskRunning, nil
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return last, fmt.Errorf("task %s: the BMC no longer knows it, so its end is not known (look at the firmware's version): %w", id, err)
	case err != nil:
		return last, fmt.Errorf("waiting for task %s: %w", id, err)
	case ended:
		return last, fmt.Errorf("task %s is still at %d %% after %s: %w", id, last.Percent, c.wait.Task, context.DeadlineExceeded)
	case last.State == TaskFailed:
		return last, fmt.Errorf("task %s failed: %s", id, last.Message)
	}
	return last, nil
}
