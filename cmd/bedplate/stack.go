package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func newStackCommand(a *app) *cobra.Command {
	noun := newNounCommand(a, mustKind("Stack"), "Layers on a cluster: catalogue, plan, apply, health, removal")
	noun.AddCommand(newStackPlanCommand(a), newStackFollowCommand(a), newStackRetryCommand(a), newStackCatalogCommand(a), newStackProfileCommand(a))
	return noun
}

func (a *app) stackColumns() (narrow, wide []column) {
	return []column{
			of("STATE", func(s *pb.Stack) string { return stackState(s) }),
			of("LAYERS", stackCount),
			of("CLUSTER", func(s *pb.Stack) string { return s.GetSpec().GetCluster().GetKubeconfigSecret() }),
			of("TOOK", func(s *pb.Stack) string { return a.took(s.GetStatus().GetStartTime(), s.GetStatus().GetEndTime()) }),
		}, []column{
			of("KUBERNETES", func(s *pb.Stack) string { return s.GetStatus().GetClusterVersion() }),
			of("CAUSE", func(s *pb.Stack) string { return firstLine(s.GetStatus().GetCause()) }),
		}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// stackState is the state of a stack, which has none yet when it is new.
func stackState(s *pb.Stack) string {
	return orElse(resource.EnumName(s.GetStatus().GetState()), "pending")
}

// stackCount is how many layers are ready, of all.
func stackCount(s *pb.Stack) string {
	ready := 0
	for _, l := range s.GetStatus().GetLayers() {
		if slices.Contains([]pb.StackState{pb.StackState_STACK_READY, pb.StackState_STACK_SKIPPED}, l.GetState()) {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, max(len(s.GetSpec().GetLayers()), len(s.GetStatus().GetLayers())))
}
