package workflow

import (
	"context"
	"fmt"
	"maps"
	"slices"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// maxWatchers bounds how many may follow one workflow at a time.
const maxWatchers = 256

// watcher is told that there is news; it fetches the news itself, so one that
// is slow holds nobody up and costs nothing.
type watcher struct{ news chan struct{} }

func (w *watcher) poke() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// FollowOptions says what Follow sends.
type FollowOptions struct {
	// History sends the log lines from before the call too.
	History bool
	// NoFollow ends when everything known has been sent.
	NoFollow bool
}

// Follow sends the workflow, then its log lines, progress and changes as they
// come, until it has ended and all of it is sent, ctx is done, or send fails.
func (c *Controller) Follow(ctx context.Context, name string, o FollowOptions, send func(*pb.FollowWorkflowResponse) error) error {
	if _, err := resource.Get[*pb.Workflow](ctx, c.cfg.DB, name); err != nil {
		return err
	}
	f, w, err := c.watch(name)
	if err != nil {
		return err
	}
	defer c.unwatch(f, w)
	wf, err := c.newest(ctx, f)
	if err != nil {
		return err
	}
	fw := &following{c: c, f: f, send: send, logs: &logReader{store: c.cfg.DB.Store, uid: wf.GetMetadata().GetUid()}}
	if !o.History {
		if err := fw.logs.skip(ctx); err != nil {
			return err
		}
	}
	for {
		over, err := fw.once(ctx)
		if err != nil || over || o.NoFollow {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.news:
		}
	}
}

func (c *Controller) watch(name string) (*flow, *watcher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.flowLocked(name)
	if len(f.watchers) >= maxWatchers {
		return nil, nil, ErrBusy
	}
	w := &watcher{news: make(chan struct{}, 1)}
	f.watchers[w] = struct{}{}
	return f, w, nil
}

func (c *Controller) unwatch(f *flow, w *watcher) {
	c.mu.Lock()
	delete(f.watchers, w)
	c.mu.Unlock()
	c.drop(f)
}

// following is how far one follower is.
type following struct {
	c        *Controller
	f        *flow
	send     func(*pb.FollowWorkflowResponse) error
	logs     *logReader
	version  int64
	progress map[string]*pb.Progress
}

// once sends what is new. over says that nothing more will come.
func (fw *following) once(ctx context.Context) (over bool, err error) {
	fw.c.mu.Lock()
	wf, deleted := fw.f.wf, fw.c.flows[fw.f.name] != fw.f
	progress := maps.Clone(fw.f.progress)
	fw.c.mu.Unlock()
	if deleted {
		return true, fmt.Errorf("workflow %s was deleted: %w", fw.f.name, store.ErrNotFound)
	}
	changed := wf.GetMetadata().GetResourceVersion() != fw.version
	fw.version = wf.GetMetadata().GetResourceVersion()
	over = ended(wf.GetStatus().GetState())
	// The end comes last, so that whoever stops there has seen every line.
	if changed && !over {
		if err := fw.send(&pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Workflow{Workflow: wf}}); err != nil {
			return false, err
		}
	}
	if err := fw.sendLogs(ctx); err != nil {
		return false, err
	}
	if err := fw.sendProgress(progress); err != nil {
		return false, err
	}
	if changed && over {
		err = fw.send(&pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Workflow{Workflow: wf}})
	}
	return over, err
}

func (fw *following) sendLogs(ctx context.Context) error {
	for {
		lines, lost, err := fw.logs.read(ctx)
		if err != nil || len(lines) == 0 {
			return err
		}
		if lost > 0 {
			lines = slices.Insert(lines, 0, &pb.LogLine{
				Time: lines[0].GetTime(), Stream: "agent",
				Text: fmt.Sprintf("[%d earlier lines are gone: a workflow keeps %d MiB of log]", lost, maxLogBytes>>20),
			})
		}
		for _, l := range lines {
			if err := fw.send(&pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Log{Log: l}}); err != nil {
				return err
			}
		}
	}
}

func (fw *following) sendProgress(now map[string]*pb.Progress) error {
	for _, step := range slices.Sorted(maps.Keys(now)) {
		if fw.progress[step] == now[step] {
			continue
		}
		p := &pb.StepProgress{Step: step, Progress: now[step]}
		if err := fw.send(&pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Progress{Progress: p}}); err != nil {
			return err
		}
	}
	fw.progress = now
	return nil
}
