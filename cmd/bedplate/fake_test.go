package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// fakeServer answers as the API does, from memory. What all kinds have is
// answered by one piece of code through the descriptors; methods that one kind
// has are set by the test.
type fakeServer struct {
	mu       sync.Mutex
	objects  map[string]resource.Object
	revision int64
	events   []*pb.Event
	// handlers by method name, such as ExplainMachine.
	handlers map[string]func(grpc.ServerStream) error
	// refuse, if set, may refuse a write.
	refuse func(obj resource.Object) error
	// calls has the names of the methods that were called.
	calls []string
	// changes are sent to watches after SYNCED.
	changes  []proto.Message
	pageSize int
	listener *bufconn.Listener
	server   *grpc.Server
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{objects: map[string]resource.Object{}, revision: 100, handlers: map[string]func(grpc.ServerStream) error{}, pageSize: 1}
	f.serve()
	t.Cleanup(f.stop)
	return f
}

func (f *fakeServer) serve() {
	f.listener = bufconn.Listen(1 << 20)
	f.server = grpc.NewServer(grpc.UnknownServiceHandler(f.handle))
	server, listener := f.server, f.listener
	go func() { _ = server.Serve(listener) }()
}

func (f *fakeServer) stop() { f.server.Stop() }

// restart ends all streams, as a restarted server does.
func (f *fakeServer) restart() {
	f.stop()
	f.serve()
}

func (f *fakeServer) connect(context.Context) (connection, error) {
	return grpc.NewClient("passthrough:///fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return f.listener.DialContext(ctx) }))
}

// load adds the resources of a file.
func (f *fakeServer) load(t *testing.T, name string) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	items, err := resource.Decode(name, file)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		f.objects[label(it.Object)] = it.Object
	}
}

func (f *fakeServer) handle(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	service, name, _ := strings.Cut(strings.TrimPrefix(path, "/bedplate.v1."), "/")
	f.mu.Lock()
	f.calls = append(f.calls, name)
	handler := f.handlers[name]
	f.mu.Unlock()
	if handler != nil {
		return handler(stream)
	}
	if service == "EventService" {
		return f.eventService(name, stream)
	}
	kind, ok := resource.KindNamed(strings.TrimSuffix(service, "Service"))
	if !ok {
		return status.Errorf(codes.Unimplemented, "unknown service %s", service)
	}
	_, in, out, err := method(kind, name)
	if err != nil {
		return status.Error(codes.Unimplemented, err.Error())
	}
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(name, "Get"):
		return f.get(kind, in, stream)
	case strings.HasPrefix(name, "List"):
		return f.list(kind, in, out, stream)
	case strings.HasPrefix(name, "Watch"):
		return f.watch(kind, in, out, stream)
	case strings.HasPrefix(name, "Delete"):
		return f.remove(kind, in, stream)
	}
	return f.write(kind, name, in, stream)
}

func notFound(kind resource.Kind, name string) error {
	return status.Errorf(codes.NotFound, "%s/%s: not found", kind.Singular, name)
}

func (f *fakeServer) get(kind resource.Kind, in proto.Message, stream grpc.ServerStream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := field(in, "name").String()
	obj := f.objects[kind.Singular+"/"+name]
	if obj == nil {
		return notFound(kind, name)
	}
	return stream.SendMsg(obj)
}

func (f *fakeServer) sorted(kind resource.Kind, selector string) []resource.Object {
	s, _ := resource.ParseSelector(selector)
	var out []resource.Object
	for _, key := range sortedKeys(f.objects) {
		if strings.HasPrefix(key, kind.Singular+"/") && s.Matches(f.objects[key].GetMetadata().GetLabels()) {
			out = append(out, f.objects[key])
		}
	}
	return out
}

func (f *fakeServer) list(kind resource.Kind, in, out proto.Message, stream grpc.ServerStream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	objs := f.sorted(kind, field(in, "label_selector").String())
	at := 0
	if token := field(in, "page_token").String(); token != "" {
		fmt.Sscan(token, &at)
	}
	r := out.ProtoReflect()
	items := r.Mutable(r.Descriptor().Fields().ByTextName(kind.Plural)).List()
	for n := 0; at < len(objs) && n < f.pageSize; n++ {
		e := items.NewElement()
		proto.Merge(e.Message().Interface(), objs[at])
		items.Append(e)
		at++
	}
	if at < len(objs) {
		fill(out, fields{"next_page_token": fmt.Sprint(at)})
	}
	return stream.SendMsg(out)
}

func (f *fakeServer) watch(kind resource.Kind, in, out proto.Message, stream grpc.ServerStream) error {
	f.mu.Lock()
	objs := f.sorted(kind, field(in, "label_selector").String())
	changes := f.changes
	f.mu.Unlock()
	send := func(t pb.ChangeType, obj proto.Message) error {
		m := out.ProtoReflect().New().Interface()
		fill(m, fields{"type": t.Number()})
		if obj != nil {
			fill(m, fields{kind.Singular: obj})
		}
		return stream.SendMsg(m)
	}
	for _, obj := range objs {
		if name := field(in, "name").String(); name != "" && name != obj.GetMetadata().GetName() {
			continue
		}
		if err := send(pb.ChangeType_ADDED, obj); err != nil {
			return err
		}
	}
	if err := send(pb.ChangeType_SYNCED, nil); err != nil {
		return err
	}
	for _, m := range changes {
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeServer) remove(kind resource.Kind, in proto.Message, stream grpc.ServerStream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := field(in, "name").String()
	key := kind.Singular + "/" + name
	if f.objects[key] == nil {
		return notFound(kind, name)
	}
	delete(f.objects, key)
	return stream.SendMsg(&emptypb.Empty{})
}

// write creates or updates.
func (f *fakeServer) write(kind resource.Kind, name string, in proto.Message, stream grpc.ServerStream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	obj := proto.Clone(field(in, kind.Singular).Message().Interface()).(resource.Object)
	key := label(obj)
	before := f.objects[key]
	create := strings.HasPrefix(name, "Create")
	switch {
	case create && before != nil:
		return status.Errorf(codes.AlreadyExists, "%s: already exists: choose another name, or update it", key)
	case !create && before == nil && !field(in, "allow_missing").Bool():
		return notFound(kind, obj.GetMetadata().GetName())
	}
	if v := obj.GetMetadata().GetResourceVersion(); before != nil && v != 0 && v != before.GetMetadata().GetResourceVersion() {
		return status.Errorf(codes.Aborted, "%s: changed by someone else: get it again, make the change to that, and send it again", key)
	}
	if f.refuse != nil {
		if err := f.refuse(obj); err != nil {
			return err
		}
	}
	if !field(in, "dry_run").Bool() {
		f.revision++
		obj.GetMetadata().ResourceVersion = f.revision
		f.objects[key] = obj
	}
	if t, ok := obj.(*pb.Token); ok && create {
		return stream.SendMsg(&pb.CreateTokenResponse{Token: t, Secret: "bpt_secret"})
	}
	return stream.SendMsg(obj)
}

func (f *fakeServer) eventService(name string, stream grpc.ServerStream) error {
	f.mu.Lock()
	events := slices.Clone(f.events)
	f.mu.Unlock()
	if name == "WatchEvents" {
		if err := stream.RecvMsg(&pb.WatchEventsRequest{}); err != nil {
			return err
		}
		for _, e := range events {
			if err := stream.SendMsg(&pb.WatchEventsResponse{Event: e}); err != nil {
				return err
			}
		}
		return nil
	}
	var in pb.ListEventsRequest
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	slices.Reverse(events)
	events = slices.DeleteFunc(events, func(e *pb.Event) bool {
		return in.SubjectKind != "" && e.SubjectKind != in.SubjectKind || in.SubjectName != "" && e.SubjectName != in.SubjectName
	})
	return stream.SendMsg(&pb.ListEventsResponse{Events: events[:min(len(events), int(in.PageSize))]})
}

// on sets what a method answers, and returns what it was asked.
func on[Q, R proto.Message](f *fakeServer, name string, answer func(Q) (R, error)) {
	f.handlers[name] = func(stream grpc.ServerStream) error {
		var none Q
		in := none.ProtoReflect().New().Interface().(Q)
		if err := stream.RecvMsg(in); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		out, err := answer(in)
		if err != nil {
			return err
		}
		return stream.SendMsg(out)
	}
}

// onStream sets what a method streams; wait holds the stream open at the end.
func onStream[Q proto.Message](f *fakeServer, name string, answer func(Q, grpc.ServerStream) error) {
	f.handlers[name] = func(stream grpc.ServerStream) error {
		var none Q
		in := none.ProtoReflect().New().Interface().(Q)
		if err := stream.RecvMsg(in); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return answer(in, stream)
	}
}

// badFields is how the API refuses fields.
func badFields(pairs ...string) error {
	bad := &errdetails.BadRequest{}
	var text []string
	for i := 0; i < len(pairs); i += 2 {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: pairs[i], Description: pairs[i+1]})
		text = append(text, pairs[i]+": "+pairs[i+1])
	}
	st, err := status.New(codes.InvalidArgument, strings.Join(text, "; ")).WithDetails(bad)
	if err != nil {
		panic(err)
	}
	return st.Err()
}
