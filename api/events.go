package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

const (
	eventsPage = 500
	// maxEventsRead bounds what one call reads: a page may be short, or empty,
	// and the next one goes on from there.
	maxEventsRead = 20_000
)

type eventAPI struct {
	pb.UnimplementedEventServiceServer
	s    *Server
	kind resource.Kind
}

func newEventAPI(s *Server) *eventAPI {
	return &eventAPI{s: s, kind: resource.KindOf((*pb.Event)(nil))}
}

// subject is what events are picked by; empty fields match all.
type subject struct{ kind, name string }

// parseSubject reads a kind in any of its spellings.
func parseSubject(kind, name string) (subject, error) {
	if kind == "" {
		return subject{name: name}, nil
	}
	k, ok := resource.KindNamed(kind)
	if !ok {
		return subject{}, fieldError("subject_kind", "there is no kind %q", kind)
	}
	return subject{kind: k.Name, name: name}, nil
}

func (s subject) matches(e *pb.Event) bool {
	return (s.kind == "" || s.kind == e.GetSubjectKind()) && (s.name == "" || s.name == e.GetSubjectName())
}

// ListEvents implements pb.EventServiceServer.
func (a *eventAPI) ListEvents(ctx context.Context, r *pb.ListEventsRequest) (*pb.ListEventsResponse, error) {
	size, err := pageSize(r.GetPageSize())
	if err != nil {
		return nil, err
	}
	want, err := parseSubject(r.GetSubjectKind(), r.GetSubjectName())
	if err != nil {
		return nil, err
	}
	token, err := parsePageToken(r.GetPageToken(), fmt.Sprintf("events?%s/%s", want.kind, want.name))
	if err != nil {
		return nil, err
	}
	out := &pb.ListEventsResponse{}
	for read, bytes := 0, 0; ; {
		found, err := resource.List[*pb.Event](ctx, a.s.cfg.DB, resource.ListOptions{Limit: eventsPage, After: token.After})
		if err != nil {
			return nil, err
		}
		for i, e := range found.Items {
			token.After = e.GetMetadata().GetName()
			read++
			if want.matches(e) {
				out.Events = append(out.Events, e)
				bytes += proto.Size(e)
			}
			full := len(out.Events) == size || bytes > maxPageBytes || read >= maxEventsRead
			if full && (i+1 < len(found.Items) || found.Next != "") {
				out.NextPageToken = token.encode()
				return out, nil
			}
		}
		if found.Next == "" {
			return out, nil
		}
	}
}

// WatchEvents implements pb.EventServiceServer.
func (a *eventAPI) WatchEvents(r *pb.WatchEventsRequest, stream grpc.ServerStreamingServer[pb.WatchEventsResponse]) error {
	want, err := parseSubject(r.GetSubjectKind(), r.GetSubjectName())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	from, err := a.s.cfg.DB.Store.Revision(ctx)
	if err != nil {
		return err
	}
	changes, err := resource.Watch[*pb.Event](ctx, a.s.cfg.DB, from)
	if err != nil {
		return err
	}
	// The client knows by the header that it misses nothing from here on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for c := range changes {
		if c.Err != nil {
			return c.Err
		}
		if c.Type == pb.ChangeType_DELETED || !want.matches(c.Object) {
			continue
		}
		if err := stream.Send(&pb.WatchEventsResponse{Event: c.Object}); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
