package board

import (
	"context"
	"errors"
	"slices"
	"time"
)

// TaskState is how far a task is, in Redfish's words.
type TaskState string

// The states of a task.
const (
	Running   TaskState = "Running"
	Completed TaskState = "Completed"
	Exception TaskState = "Exception"
	Cancelled TaskState = "Cancelled"
)

// Task is something that takes its time.
type Task struct {
	ID      int
	Name    string
	State   TaskState
	Percent int
	// Message is the last thing it said.
	Message string
	Started time.Time
	Ended   time.Time // zero while it runs
}

// Bounds of tasks: how many are remembered, how many run.
const (
	maxTasks   = 32
	maxRunning = 2
)

// ErrBusy means that too much is going on already.
var ErrBusy = errors.New("an update is running already")

// ErrNoTask means that there is no such task, or it is forgotten.
var ErrNoTask = errors.New("no such task")

type tasks struct {
	next int
	all  []*task
}

type task struct {
	Task
	cancel context.CancelFunc
}

// startTask runs f until its end, its deadline or the board's.
func (b *Board) startTask(name string, f func(ctx context.Context, step func(percent int, message string)) error) (Task, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	running := 0
	for _, t := range b.tasks.all {
		if t.State == Running {
			running++
		}
	}
	if running >= maxRunning || b.life.Err() != nil {
		return Task{}, ErrBusy
	}
	ctx, cancel := context.WithTimeout(b.life, updateDeadline)
	t := &task{Task: Task{ID: b.tasks.next, Name: name, State: Running, Message: "The task has started.", Started: b.now()}, cancel: cancel}
	b.tasks.next++
	b.tasks.all = append(b.tasks.all, t)
	if len(b.tasks.all) > maxTasks {
		if i := slices.IndexFunc(b.tasks.all, func(t *task) bool { return t.State != Running }); i >= 0 {
			b.tasks.all = slices.Delete(b.tasks.all, i, i+1)
		}
	}
	b.work.Go(func() {
		defer cancel()
		err := f(ctx, func(percent int, message string) { b.step(t, Running, percent, message) })
		switch {
		case err == nil:
			b.step(t, Completed, 100, "The task has completed.")
		case errors.Is(err, context.Canceled):
			b.step(t, Cancelled, t.Percent, "The task was cancelled.")
		default:
			b.step(t, Exception, t.Percent, err.Error())
		}
	})
	return t.Task, nil
}

func (b *Board) step(t *task, s TaskState, percent int, message string) {
	b.mu.Lock()
	t.State, t.Percent, t.Message = s, percent, message
	if s != Running {
		t.Ended = b.now()
	}
	b.mu.Unlock()
	b.publish(Event{Kind: TaskChanged})
}

// Tasks returns what runs and what ran lately.
func (b *Board) Tasks() []Task {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Task
	for _, t := range b.tasks.all {
		all = append(all, t.Task)
	}
	return all
}

// Task returns one task, or ErrNoTask.
func (b *Board) Task(id int) (Task, error) {
	for _, t := range b.Tasks() {
		if t.ID == id {
			return t, nil
		}
	}
	return Task{}, ErrNoTask
}

// CancelTask ends a task that runs, and forgets one that ran.
func (b *Board) CancelTask(id int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.tasks.all, func(t *task) bool { return t.ID == id })
	if i < 0 {
		return ErrNoTask
	}
	if b.tasks.all[i].State == Running {
		b.tasks.all[i].cancel()
		return nil
	}
	b.tasks.all = slices.Delete(b.tasks.all, i, i+1)
	return nil
}
