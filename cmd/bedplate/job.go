package main

import (
	"fmt"

	"github.com/spf13/cobra"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func newJobCommand(a *app) *cobra.Command {
	noun := newNounCommand(a, mustKind("Job"), "Work for machines' BMCs: power, boot device, media, firmware")
	noun.AddCommand(newJobCancelCommand(a))
	return noun
}

func newJobCancelCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:               "cancel NAME",
		Short:             "Ask a job to stop before its next operation",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Job")),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				j, err := pb.NewJobServiceClient(c.conn).CancelJob(ctx, &pb.CancelJobRequest{Name: words[0], Reason: reason})
				if err != nil {
					return c.nearest(cmd.Context(), mustKind("Job"), words[0], err)
				}
				if j.GetStatus().GetEndTime() != nil {
					fprintf(a.stdout, "job/%s had ended: %s\n", words[0], resource.EnumName(j.GetStatus().GetState()))
					return nil
				}
				fprintf(a.stdout, "job/%s is being cancelled\n", words[0])
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for people")
	return cmd
}

func (a *app) jobColumns() (narrow, wide []column) {
	return []column{
			of("STATE", func(j *pb.Job) string { return resource.EnumName(j.GetStatus().GetState()) }),
			of("MACHINE", func(j *pb.Job) string { return j.GetSpec().GetMachine() }),
			of("OPERATIONS", jobOperations),
			of("DONE", jobDone),
			of("TOOK", func(j *pb.Job) string { return a.took(j.GetStatus().GetStartTime(), j.GetStatus().GetEndTime()) }),
		}, []column{
			of("REASON", func(j *pb.Job) string { return j.GetSpec().GetReason() }),
			of("CAUSE", func(j *pb.Job) string { return j.GetStatus().GetCause() }),
		}
}

// jobOperations names a job's operations, such as boot_device,power.
func jobOperations(j *pb.Job) string {
	return join(j.GetSpec().GetOperations(), func(o *pb.Operation) string {
		m := o.ProtoReflect()
		if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("operation")); fd != nil {
			return string(fd.Name())
		}
		return ""
	})
}

// jobDone is how many operations have succeeded, of all.
func jobDone(j *pb.Job) string {
	done := 0
	for _, o := range j.GetStatus().GetOperations() {
		if o.GetState() == pb.JobState_JOB_SUCCEEDED {
			done++
		}
	}
	return fmt.Sprintf("%d/%d", done, len(j.GetSpec().GetOperations()))
}
