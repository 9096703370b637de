package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func newInventoryCommand(a *app) *cobra.Command {
	var out output
	var history, diff bool
	cmd := &cobra.Command{
		Use:   "inventory NAME [FROM [TO]]",
		Short: "Show a machine's hardware, what it was, and what has changed",
		Long: `Show a machine's hardware. With --history, one line for each time that it has
changed; with --diff, what is different between two of those: FROM and TO are the
numbers that --history shows, or times such as 2026-01-02 at which the hardware
was so. Without them the newest is compared with the one before.`,
		Example:           "  bedplate machine inventory web-1\n  bedplate machine inventory web-1 --history\n  bedplate machine inventory web-1 --diff 1 3",
		Args:              args(cobra.RangeArgs(1, 3)),
		ValidArgsFunction: a.completeOne(mustKind("Machine")),
		RunE: func(cmd *cobra.Command, words []string) error {
			switch {
			case history && diff:
				return usageError{errors.New("--history and --diff together: give one of them")}
			case !diff && len(words) > 1:
				return usageError{errors.New("FROM and TO are for --diff")}
			}
			if err := out.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error {
				switch {
				case history:
					return a.inventories(cmd.Context(), c, words[0], out)
				case diff:
					return a.inventoryDiff(cmd.Context(), c, append(words, "", "")[:3], out)
				}
				return a.inventory(cmd.Context(), c, words[0], out)
			})
		},
	}
	out.addFlags(cmd)
	cmd.Flags().BoolVar(&history, "history", false, "list the records of its hardware, newest first")
	cmd.Flags().BoolVar(&diff, "diff", false, "show what has changed between two records")
	return cmd
}

// inventory prints the hardware as it is.
func (a *app) inventory(ctx context.Context, c *client, name string, out output) error {
	obj, err := c.get(ctx, mustKind("Machine"), name)
	if err != nil {
		return err
	}
	m, _ := obj.(*pb.Machine)
	inv := m.GetStatus().GetInventory()
	if inv == nil {
		return hint(fmt.Errorf("machine/%s: its hardware has not been read yet", name), "`bedplate machine explain "+name+"` says what is waited for")
	}
	if done, err := a.message(out, inv); done {
		return err
	}
	p := &page{a: a}
	p.line("Name", name)
	p.inventory(inv)
	fprintf(a.stdout, "%s", p.out.String())
	return nil
}

// message prints a message for programs; false if a table is wanted.
func (a *app) message(out output, m proto.Message) (bool, error) {
	switch out.format {
	case formatJSON:
		return true, resource.EncodeMessages(a.stdout, resource.JSON, false, m)
	case formatYAML:
		return true, resource.EncodeMessages(a.stdout, resource.YAML, false, m)
	}
	return false, nil
}

// inventories prints the records of a machine's hardware.
func (a *app) inventories(ctx context.Context, c *client, name string, out output) error {
	all := &pb.ListMachineInventoriesResponse{}
	full := out.format == formatJSON || out.format == formatYAML
	for token := ""; ; {
		ctx, cancel := c.bounded(ctx)
		r, err := pb.NewMachineServiceClient(c.conn).ListMachineInventories(ctx, &pb.ListMachineInventoriesRequest{Name: name, Full: full, PageToken: token})
		cancel()
		if err != nil {
			return c.nearest(ctx, mustKind("Machine"), name, err)
		}
		all.Records = append(all.Records, r.GetRecords()...)
		if token = r.GetNextPageToken(); token == "" {
			break
		}
	}
	if done, err := a.message(out, all); done {
		return err
	}
	if len(all.GetRecords()) == 0 {
		fprintf(a.stderr, "nothing is on record of %s yet\n", name)
		return nil
	}
	t := &table.Table{Header: []string{"NUMBER", "AGE", "SINCE", "CHANGES"}}
	for i, r := range all.GetRecords() {
		t.Add(strconv.FormatInt(r.GetNumber(), 10), a.age(r.GetTime()), a.date(r.GetTime()), changesText(r, i == len(all.GetRecords())-1))
	}
	return t.Write(a.stdout)
}

// date is a time with its day.
func (a *app) date(t *timestamppb.Timestamp) string {
	return t.AsTime().In(a.zone).Format("2006-01-02 15:04:05")
}

// changesText sums up what a record changes.
func changesText(r *pb.InventoryRecord, oldest bool) string {
	if oldest {
		return "the oldest on record"
	}
	var parts []string
	for _, d := range r.GetChanges() {
		parts = append(parts, fmt.Sprintf("%s: %s → %s", d.GetPath(), d.GetWant(), d.GetGot()))
	}
	text := strings.Join(parts[:min(len(parts), 1)], "")
	if len(parts) > 1 {
		text = fmt.Sprintf("%s, and %d more", table.Truncate(table.Clean(text), maxCell), len(parts)-1)
	}
	return table.Truncate(table.Clean(text), maxCell+len(", and 99 more"))
}

// inventoryDiff prints what has changed between two records.
func (a *app) inventoryDiff(ctx context.Context, c *client, words []string, out output) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	r, err := pb.NewMachineServiceClient(c.conn).DiffMachineInventories(ctx, &pb.DiffMachineInventoriesRequest{Name: words[0], From: words[1], To: words[2]})
	if err != nil {
		return c.nearest(ctx, mustKind("Machine"), words[0], err)
	}
	if done, err := a.message(out, r); done {
		return err
	}
	fprintf(a.stdout, "%s: from record %d (%s) to record %d (%s)\n", words[0], r.GetFrom().GetNumber(), a.date(r.GetFrom().GetTime()), r.GetTo().GetNumber(), a.date(r.GetTo().GetTime()))
	if len(r.GetDifferences()) == 0 {
		fprintf(a.stdout, "nothing has changed\n")
		return nil
	}
	p := &page{a: a}
	p.differences(r.GetDifferences(), "WAS", "IS")
	fprintf(a.stdout, "%s", p.out.String())
	return nil
}

// differences prints a table of them.
func (p *page) differences(all []*pb.Difference, want, got string) {
	t := &table.Table{Header: []string{"WHAT", want, got}}
	for _, d := range all {
		t.Add(clean(d.GetPath(), d.GetWant(), d.GetGot())...)
	}
	p.table(t)
}

func newTestsCommand(a *app) *cobra.Command {
	var out output
	var history bool
	cmd := &cobra.Command{
		Use:               "tests NAME",
		Short:             "Show what the tests of a machine's hardware measured",
		Long:              "Show the newest results of the tests of a machine's hardware. With --history, the figures of the last runs side by side.",
		Example:           "  bedplate machine tests web-1\n  bedplate machine tests web-1 --history",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Machine")),
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				r, err := pb.NewMachineServiceClient(c.conn).ListMachineTests(ctx, &pb.ListMachineTestsRequest{Name: words[0], PageSize: int32(runsOf(history))})
				if err != nil {
					return c.nearest(cmd.Context(), mustKind("Machine"), words[0], err)
				}
				if done, err := a.message(out, r); done {
					return err
				}
				if len(r.GetRuns()) == 0 {
					fprintf(a.stderr, "the hardware of %s has not been tested yet\n", words[0])
					return nil
				}
				if history {
					return a.testHistory(r.GetRuns()).Write(a.stdout)
				}
				return a.testResults(r.GetRuns()[0].GetResults()).Write(a.stdout)
			})
		},
	}
	out.addFlags(cmd)
	cmd.Flags().BoolVar(&history, "history", false, "show the last runs side by side, the newest first")
	return cmd
}

// runsOf is how many runs are asked for.
func runsOf(history bool) int {
	if history {
		return 5
	}
	return 1
}

// testResults makes a row of each result.
func (a *app) testResults(all []*pb.TestResult) *table.Table {
	style := a.style(a.stdout)
	t := &table.Table{Header: []string{"TEST", "SUBJECT", "MEASURE", "VALUE", "VERDICT", "MESSAGE"}}
	for _, r := range all {
		cells := clean(r.GetTest(), r.GetSubject(), r.GetMeasure(), figure(r.GetValue(), r.GetUnit()), r.GetVerdict(), r.GetMessage())
		if !r.GetOk() || r.GetVerdict() == "fail" {
			cells[4] = style.Bad(orElse(cells[4], "error"))
		}
		t.Add(cells...)
	}
	return t
}

// figure writes a value with its unit, such as 2.5 GB/s.
func figure(v float64, unit string) string {
	switch unit {
	case "bool":
		return map[bool]string{true: "yes", false: "no"}[v != 0]
	case "count", "":
		return strconv.FormatFloat(v, 'g', 6, 64)
	case "B", "B/s", "bit/s", "flop/s", "1/s":
		for _, s := range []struct {
			above  float64
			prefix string
		}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
			if math.Abs(v) >= s.above && unit != "1/s" {
				return strconv.FormatFloat(v/s.above, 'g', 4, 64) + " " + s.prefix + unit
			}
		}
	}
	return strconv.FormatFloat(v, 'g', 6, 64) + " " + unit
}

// testHistory puts runs side by side, with how much the newest differs from the one before.
func (a *app) testHistory(runs []*pb.TestRun) *table.Table {
	t := &table.Table{Header: []string{"TEST", "SUBJECT", "MEASURE"}}
	type key struct{ test, subject, measure string }
	var order []key
	values := map[key][]string{}
	numbers := map[key][]float64{}
	for i, run := range runs {
		t.Header = append(t.Header, fmt.Sprintf("#%d %s", run.GetNumber(), a.age(run.GetTime())))
		for _, r := range run.GetResults() {
			k := key{r.GetTest(), r.GetSubject(), r.GetMeasure()}
			if values[k] == nil {
				values[k] = make([]string, len(runs))
				order = append(order, k)
			}
			values[k][i] = figure(r.GetValue(), r.GetUnit())
			if i < 2 {
				numbers[k] = append(numbers[k], r.GetValue())
			}
			if !r.GetOk() {
				values[k][i] += " error"
			}
		}
	}
	t.Header = append(t.Header, "CHANGE")
	slices.SortStableFunc(order, func(x, y key) int {
		return strings.Compare(x.test+"\x00"+x.subject+"\x00"+x.measure, y.test+"\x00"+y.subject+"\x00"+y.measure)
	})
	for _, k := range order {
		change := ""
		if n := numbers[k]; len(n) == 2 && n[1] != 0 && values[k][0] != "" && values[k][1] != "" {
			change = fmt.Sprintf("%+.1f%%", 100*(n[0]-n[1])/math.Abs(n[1]))
		}
		t.Add(clean(append(append([]string{k.test, k.subject, k.measure}, values[k]...), change)...)...)
	}
	return t
}
