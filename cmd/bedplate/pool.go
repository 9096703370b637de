package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func newPoolCommand(a *app) *cobra.Command {
	return newNounCommand(a, mustKind("Pool"), "Policies for machines: what they should be, how they are tested, kept and wiped")
}

func newRuleCommand(a *app) *cobra.Command {
	return newNounCommand(a, mustKind("Rule"), "What becomes of machines that make themselves known")
}

func poolColumns() (narrow, wide []column) {
	return []column{
			of("MACHINES", func(p *pb.Pool) string { return fmt.Sprint(p.GetStatus().GetMachines()) }),
			of("AVAILABLE", func(p *pb.Pool) string { return fmt.Sprint(p.GetStatus().GetAvailable()) }),
			of("ACTIVE", func(p *pb.Pool) string { return fmt.Sprint(p.GetStatus().GetActive()) }),
			of("FAILED", func(p *pb.Pool) string { return fmt.Sprint(p.GetStatus().GetFailed()) }),
			of("IDLE", func(p *pb.Pool) string { return orElse(p.GetSpec().GetIdle(), "on") }),
		}, []column{
			of("TESTS", func(p *pb.Pool) string { return poolTests(p.GetSpec().GetTests()) }),
			of("ERASE", func(p *pb.Pool) string { return orElse(p.GetSpec().GetErase().GetMethod(), "auto") }),
			of("DESCRIPTION", func(p *pb.Pool) string { return p.GetSpec().GetDescription() }),
		}
}

func poolTests(t *pb.TestPolicy) string {
	switch {
	case t == nil:
		return "none"
	case len(t.GetTests()) == 0:
		return "cpu,memory,disk"
	}
	return strings.Join(t.GetTests(), ",")
}

func ruleColumns() (narrow, wide []column) {
	return []column{
			of("PRIORITY", func(r *pb.Rule) string { return fmt.Sprint(r.GetSpec().GetPriority()) }),
			of("ACTION", func(r *pb.Rule) string { return r.GetSpec().GetAction() }),
			of("POOL", func(r *pb.Rule) string { return r.GetSpec().GetPool() }),
			of("ACCEPTED", func(r *pb.Rule) string { return fmt.Sprint(r.GetStatus().GetAccepted()) }),
			of("REFUSED", func(r *pb.Rule) string { return fmt.Sprint(r.GetStatus().GetRefused()) }),
		}, []column{
			of("MATCH", func(r *pb.Rule) string { return r.GetSpec().GetMatch() }),
			of("ERROR", func(r *pb.Rule) string { return r.GetStatus().GetError() }),
		}
}
