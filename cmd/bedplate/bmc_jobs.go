package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/bmc/job"
	"github.com/bedplate/bedplate/cmd/bedplate/table"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// labelRequest marks the jobs that one command has made.
const labelRequest = "bedplate/request"

// jobRun makes jobs for machines and waits for them: what the commands that
// change something by a BMC have in common.
type jobRun struct {
	*app
	noWait  bool
	timeout string
	reason  string
	// word is in the jobs' names, such as power.
	word string
}

func (r *jobRun) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&r.noWait, "no-wait", false, "create the job and don't wait for its end")
	cmd.Flags().StringVar(&r.timeout, "timeout", "", "how long the job may take, a `duration` such as 20m (default 15m; 2h with firmware)")
	cmd.Flags().StringVar(&r.reason, "reason", "", "`why`, for people")
}

// run creates a job for each machine and shows them until the last has ended.
func (r *jobRun) run(ctx context.Context, c *client, machines []string, operations ...*pb.Operation) error {
	if len(machines) == 0 {
		return errors.New("no machine with a BMC has those labels")
	}
	request := r.suffix()
	var errs []error
	made := map[string]bool{}
	for _, m := range machines {
		j := &pb.Job{
			Metadata: &pb.Metadata{Name: jobName(m, r.word, request), Labels: map[string]string{labelRequest: request}},
			Spec:     &pb.JobSpec{Machine: m, Operations: operations, Timeout: r.timeout, Reason: r.reason},
		}
		if _, err := c.create(ctx, mustKind("Job"), j, false); err != nil {
			errs = append(errs, c.nearest(ctx, mustKind("Machine"), m, err))
			continue
		}
		made[j.Metadata.Name] = true
		if r.noWait {
			fprintf(r.stdout, "job/%s created\n", j.Metadata.Name)
		}
	}
	if !r.noWait && len(made) > 0 {
		errs = append(errs, r.wait(ctx, c, request, made))
	}
	return errors.Join(errs...)
}

// jobName fits a resource's name: the machine's part is cut where it is very long.
func jobName(machine, word, request string) string {
	const most = 200
	return strings.TrimRight(machine[:min(len(machine), most)], ".-") + "-" + word + "-" + request
}

// wait shows the jobs until all have ended. A restart of the server is waited out.
func (r *jobRun) wait(ctx context.Context, c *client, request string, open map[string]bool) (err error) {
	w := &jobWaiter{app: r.app, screen: r.screen(r.stdout), open: open}
	defer func() { err = errors.Join(err, w.screen.Close()) }()
	for {
		err := c.watch(ctx, mustKind("Job"), "", labelRequest+"="+request, w.see)
		switch {
		case errors.Is(err, errDone):
			return w.result()
		case ctx.Err() != nil:
			return hint(ctx.Err(), "the jobs go on: `bedplate job list -l "+labelRequest+"="+request+"`")
		case !passing(err):
			return err
		}
		if err := pause(ctx, retryFirst); err != nil {
			return err
		}
	}
}

// jobWaiter shows jobs.
type jobWaiter struct {
	*app
	screen *table.Screen
	open   map[string]bool
	failed []error
}

func (w *jobWaiter) see(ch change) error {
	j, ok := ch.object.(*pb.Job)
	if !ok || !w.open[j.GetMetadata().GetName()] {
		return nil
	}
	name, machine := j.GetMetadata().GetName(), j.GetSpec().GetMachine()
	switch {
	case ch.kind == pb.ChangeType_DELETED:
		w.failed = append(w.failed, fmt.Errorf("job/%s was deleted before it ended", name))
	case j.GetStatus().GetEndTime() == nil:
		bar := table.Bar{Label: machine, Message: table.Clean(orElse(j.GetStatus().GetCause(), "waits"))}
		if done := jobProgress(j); done > 0 {
			bar.Done, bar.Total, bar.Unit = done, 100, "percent"
		}
		w.screen.Set(name, bar)
		return nil
	default:
		w.end(j)
	}
	w.screen.Remove(name)
	delete(w.open, name)
	if len(w.open) == 0 {
		return errDone
	}
	return nil
}

// jobProgress is how far a job's running operation is, in percent.
func jobProgress(j *pb.Job) int64 {
	for _, o := range j.GetStatus().GetOperations() {
		if o.GetState() == pb.JobState_JOB_RUNNING {
			return int64(o.GetProgress())
		}
	}
	return 0
}

// end shows what became of a job.
func (w *jobWaiter) end(j *pb.Job) {
	style := w.style(w.stdout)
	machine := j.GetSpec().GetMachine()
	for i, o := range j.GetStatus().GetOperations() {
		what := job.Describe(j.GetSpec().GetOperations()[i])
		switch o.GetState() {
		case pb.JobState_JOB_SUCCEEDED:
			w.screen.Line(strings.Join(notEmpty(machine+": "+what, o.GetResult()), ": "))
		case pb.JobState_JOB_FAILED:
			w.screen.Line(machine + ": " + what + ": " + style.Bad("failed"))
		}
	}
	if j.GetStatus().GetState() != pb.JobState_JOB_SUCCEEDED {
		w.failed = append(w.failed, hint(fmt.Errorf("job/%s %s: %s", j.GetMetadata().GetName(), resource.EnumName(j.GetStatus().GetState()), table.Clean(j.GetStatus().GetCause())),
			"`bedplate machine explain "+machine+"` says how its BMC is"))
	}
}

func (w *jobWaiter) result() error { return errors.Join(w.failed...) }

// machinesOf returns the machines that are named, or that a selector matches.
func (c *client) machinesOf(ctx context.Context, names []string, selector string) ([]string, error) {
	switch {
	case len(names) > 0 && selector != "":
		return nil, usageError{errors.New("names and -l together: give one of them")}
	case len(names) == 0 && selector == "":
		return nil, usageError{errors.New("which machines? give names, or labels with -l")}
	case selector == "":
		return names, nil
	}
	objs, err := c.list(ctx, mustKind("Machine"), selector)
	var out []string
	for _, o := range objs {
		if m, ok := o.(*pb.Machine); ok && m.GetSpec().GetBmc().GetAddress() != "" {
			out = append(out, m.GetMetadata().GetName())
		}
	}
	return out, err
}

// newJobCommandOn makes a command whose work is a job of one machine.
func newJobCommandOn(a *app, use, short, word string, check cobra.PositionalArgs, operations func(words []string) ([]*pb.Operation, error)) *cobra.Command {
	r := &jobRun{app: a, word: word}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args(check), ValidArgsFunction: a.completeOne(mustKind("Machine")),
		RunE: func(cmd *cobra.Command, words []string) error {
			ops, err := operations(words)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error { return r.run(cmd.Context(), c, words[:1], ops...) })
		},
	}
	r.addFlags(cmd)
	return cmd
}

// checkWait reads a duration flag that goes into a resource.
func checkWait(flag, text string) error {
	if text == "" {
		return nil
	}
	if d, err := time.ParseDuration(text); err != nil || d <= 0 {
		return usageError{fmt.Errorf("--%s %q: not a duration such as 5m", flag, text)}
	}
	return nil
}
