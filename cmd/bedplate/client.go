package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// client calls the services of proto/bedplate/v1/api.proto. Those of the
// kinds have the same methods with the same fields, so that one piece of code
// goes through the descriptors to all of them; what one kind alone has is
// called by its generated client on conn.
type client struct {
	conn    connection
	timeout time.Duration
}

// nearestTimeout bounds the search for a name like one that isn't there.
const nearestTimeout = 2 * time.Second

// listPage is how many resources are asked for at a time.
const listPage = 200

// open connects to the server; the caller closes.
func (a *app) open(ctx context.Context) (*client, error) {
	conn, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, timeout: a.flags.timeout}, nil
}

// with runs f with a connection.
func (a *app) with(ctx context.Context, f func(*client) error) error {
	c, err := a.open(ctx)
	if err != nil {
		return err
	}
	err = f(c)
	return errors.Join(err, ignoreCanceled(c.conn.Close()))
}

// ignoreCanceled drops what gRPC says of a connection that is closed already.
func ignoreCanceled(err error) error {
	if codeOf(err) == codes.Canceled {
		return nil
	}
	return err
}

// bounded returns a context that ends a single call in time.
func (c *client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

// fields are the values of a request by the names of its fields.
type fields map[string]any

// method finds a method of a kind's service, with an empty request and answer.
func method(kind resource.Kind, name string) (path string, in, out proto.Message, err error) {
	service := "bedplate.v1." + kind.Name + "Service"
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return "", nil, nil, fmt.Errorf("finding %s: %w", service, err)
	}
	m := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	if m == nil {
		return "", nil, nil, usageError{fmt.Errorf("%s can't do that: it has no %s", kind.Plural, name)}
	}
	if in, err = newMessage(m.Input().FullName()); err != nil {
		return "", nil, nil, err
	}
	out, err = newMessage(m.Output().FullName())
	return "/" + service + "/" + name, in, out, err
}

func newMessage(name protoreflect.FullName) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", name, err)
	}
	return t.New().Interface(), nil
}

// fill sets fields of a request; what it doesn't have is left out.
func fill(m proto.Message, values fields) {
	r := m.ProtoReflect()
	for name, v := range values {
		fd := r.Descriptor().Fields().ByName(protoreflect.Name(name))
		if fd == nil {
			continue
		}
		if msg, ok := v.(proto.Message); ok {
			r.Set(fd, protoreflect.ValueOfMessage(msg.ProtoReflect()))
			continue
		}
		r.Set(fd, protoreflect.ValueOf(v))
	}
}

// field reads a field of an answer.
func field(m proto.Message, name string) protoreflect.Value {
	r := m.ProtoReflect()
	return r.Get(r.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

// call makes a single call of a kind's service.
func (c *client) call(ctx context.Context, kind resource.Kind, name string, values fields) (proto.Message, error) {
	path, in, out, err := method(kind, name)
	if err != nil {
		return nil, err
	}
	fill(in, values)
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if err := c.conn.Invoke(ctx, path, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

// get returns one resource. Where there is none, the hint names those alike.
func (c *client) get(ctx context.Context, kind resource.Kind, name string) (resource.Object, error) {
	out, err := c.call(ctx, kind, "Get"+kind.Name, fields{"name": name})
	if err != nil {
		return nil, c.nearest(ctx, kind, name, err)
	}
	return out.(resource.Object), nil
}

// nearest adds to NOT_FOUND what the person may have meant.
func (c *client) nearest(ctx context.Context, kind resource.Kind, name string, err error) error {
	if codeOf(err) != codes.NotFound {
		return err
	}
	all := fmt.Sprintf("`bedplate %s list` shows all", kind.Singular)
	ctx, cancel := context.WithTimeout(ctx, nearestTimeout)
	defer cancel()
	names, listErr := c.names(ctx, kind)
	if near := resource.Nearest(name, names); listErr == nil && near != "" {
		return hint(err, fmt.Sprintf("did you mean %s? %s", near, all))
	}
	return hint(err, all)
}

// names returns the names of all resources of a kind.
func (c *client) names(ctx context.Context, kind resource.Kind) ([]string, error) {
	objs, err := c.list(ctx, kind, "")
	var out []string
	for _, o := range objs {
		out = append(out, o.GetMetadata().GetName())
	}
	return out, err
}

// list returns all resources of a kind that a selector matches.
func (c *client) list(ctx context.Context, kind resource.Kind, selector string) ([]resource.Object, error) {
	var objs []resource.Object
	token := ""
	for {
		out, err := c.call(ctx, kind, "List"+kind.Name+"s", fields{
			"page_size": int32(listPage), "page_token": token, "label_selector": selector,
		})
		if err != nil {
			return nil, err
		}
		items := field(out, kind.Plural).List()
		for i := range items.Len() {
			objs = append(objs, items.Get(i).Message().Interface().(resource.Object))
		}
		token = field(out, "next_page_token").String()
		if token == "" {
			return objs, nil
		}
	}
}

// create adds a resource. For a token use the generated client: the answer
// has the secret.
func (c *client) create(ctx context.Context, kind resource.Kind, obj resource.Object, dryRun bool) (resource.Object, error) {
	out, err := c.call(ctx, kind, "Create"+kind.Name, fields{kind.Singular: obj, "dry_run": dryRun})
	if err != nil {
		return nil, err
	}
	return out.(resource.Object), nil
}

// update changes a resource, or creates it if create is set.
func (c *client) update(ctx context.Context, kind resource.Kind, obj resource.Object, create, dryRun bool) (resource.Object, error) {
	out, err := c.call(ctx, kind, "Update"+kind.Name, fields{kind.Singular: obj, "dry_run": dryRun, "allow_missing": create})
	if err != nil {
		return nil, err
	}
	return out.(resource.Object), nil
}

// remove deletes a resource.
func (c *client) remove(ctx context.Context, kind resource.Kind, name string) error {
	_, err := c.call(ctx, kind, "Delete"+kind.Name, fields{"name": name})
	return c.nearest(ctx, kind, name, err)
}

// change is one message of a watch. Object is nil for SYNCED.
type change struct {
	kind   pb.ChangeType
	object resource.Object
}

// watch calls f with what is there and every change after, until ctx is done
// or f fails. A watch that the server ends is an error.
func (c *client) watch(ctx context.Context, kind resource.Kind, name, selector string, f func(change) error) error {
	path, in, out, err := method(kind, "Watch"+kind.Name+"s")
	if err != nil {
		return err
	}
	fill(in, fields{"name": name, "label_selector": selector})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		proto.Reset(out)
		if err := stream.RecvMsg(out); err != nil {
			return streamEnded(err)
		}
		ch := change{kind: pb.ChangeType(field(out, "type").Enum())}
		if obj := field(out, kind.Singular).Message(); obj.IsValid() {
			ch.object = proto.Clone(obj.Interface()).(resource.Object)
		}
		if err := f(ch); err != nil {
			return err
		}
	}
}

// errStreamEnded: the server has ended a stream that was to go on.
var errStreamEnded = errors.New("the server has ended the stream: try again")

// streamEnded makes an error of a stream that the server has ended.
func streamEnded(err error) error {
	if errors.Is(err, io.EOF) {
		return errStreamEnded
	}
	return err
}
