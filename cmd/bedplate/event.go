package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// maxEvents is how many events are shown unless more are asked for.
const maxEvents = 100

// eventFilter selects events by what they are about.
type eventFilter struct {
	kind, name string
}

// parseEventFilter reads KIND or KIND/NAME.
func parseEventFilter(about string) (eventFilter, error) {
	if about == "" {
		return eventFilter{}, nil
	}
	word, name, _ := strings.Cut(about, "/")
	kind, err := parseKind(word)
	return eventFilter{kind.Name, name}, err
}

// events returns the newest events, oldest first.
func (c *client) events(ctx context.Context, f eventFilter, limit int) ([]resource.Object, error) {
	var out []resource.Object
	token := ""
	for len(out) < limit {
		one, cancel := c.bounded(ctx)
		page, err := pb.NewEventServiceClient(c.conn).ListEvents(one, &pb.ListEventsRequest{
			PageSize: int32(min(limit-len(out), 1000)), PageToken: token, SubjectKind: f.kind, SubjectName: f.name,
		})
		cancel()
		if err != nil {
			return nil, err
		}
		for _, e := range page.GetEvents() {
			out = append(out, e)
		}
		token = page.GetNextPageToken()
		if token == "" {
			break
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out, nil
}

func newEventCommand(a *app) *cobra.Command {
	noun := &cobra.Command{Use: "event", Aliases: []string{"events"}, Short: "What happened, and who did it"}
	noun.AddCommand(newEventListCommand(a), newEventWatchCommand(a))
	return noun
}

func newEventListCommand(a *app) *cobra.Command {
	var out output
	var about string
	limit := maxEvents
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the newest events, oldest first",
		Example: "  bedplate event list --about machine/web-1",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := parseEventFilter(about)
			if err = errors.Join(err, out.check()); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error {
				events, err := c.events(cmd.Context(), filter, limit)
				if err != nil {
					return err
				}
				if len(events) == 0 && (out.format == formatTable || out.format == formatWide) {
					fprintf(a.stderr, "no events\n")
					return nil
				}
				return a.print(out, events)
			})
		},
	}
	out.addFlags(cmd)
	addAbout(a, cmd, &about)
	cmd.Flags().IntVar(&limit, "limit", maxEvents, "how many of the newest")
	return cmd
}

func addAbout(a *app, cmd *cobra.Command, about *string) {
	cmd.Flags().StringVar(about, "about", "", "only events about this `KIND[/NAME]`")
	mustComplete(cmd, "about", a.completeRefs)
}

func newEventWatchCommand(a *app) *cobra.Command {
	var out output
	var about string
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show events as they happen",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := parseEventFilter(about)
			if err = errors.Join(err, out.check()); err != nil {
				return err
			}
			return a.watchEvents(cmd.Context(), out, filter)
		},
	}
	out.addFlags(cmd)
	addAbout(a, cmd, &about)
	return cmd
}

// watchEvents prints events until it is stopped.
func (a *app) watchEvents(ctx context.Context, out output, f eventFilter) error {
	return a.with(ctx, func(c *client) error {
		stream, err := pb.NewEventServiceClient(c.conn).WatchEvents(ctx, &pb.WatchEventsRequest{SubjectKind: f.kind, SubjectName: f.name})
		if err != nil {
			return err
		}
		w := &watchPrinter{a: a, out: out}
		for {
			m, err := stream.Recv()
			if err != nil {
				return streamEnded(err)
			}
			if err := w.event(m.GetEvent()); err != nil {
				return err
			}
		}
	})
}

// event prints one event as a row without a column for the change: events don't.
func (w *watchPrinter) event(e *pb.Event) error {
	if w.out.format != formatTable && w.out.format != formatWide {
		return w.printOne(change{pb.ChangeType_ADDED, e})
	}
	t := w.a.table(w.out, []resource.Object{e})
	t.Rows[0][0] = w.a.clock(e.GetTime())
	if len(t.Header) > 0 {
		t.Header[0] = "TIME"
	}
	if w.headed {
		t.Header = nil
	}
	t.Min = w.widths
	w.headed, w.widths = true, t.Widths()
	w.widths[len(w.widths)-1] = 0
	return t.Write(w.a.stdout)
}
